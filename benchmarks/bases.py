"""Any base, any extractor, three classes: python benchmarks/bases.py [SHARED] [--cache FOLDER] [--short]

Dog against fish with EfficientNet-Lite0: nearest, random and farthest bases at 8/255, 16/255 and in the paper's beta form
(no bound on the perturbation, 400 passes at most; then 1,600 for the targets that are left); other extractors at 8/255; and dogs, frogs and planes of CIFAR-10 (1,000
training pictures a class, 128 pixels). 64 targets a row. About an hour on 2 cores; runs lie in runs/bench and go on where
they were. The result is benchmarks/results/bases.json; it is written after every row.
"""

from argparse import Namespace
from statistics import median
from typing import Any

import numpy as np
from bench import KEPT, RUNS, arguments, audited, write

from poisonfrogs import data, journal

BUDGETS: dict[str, dict[str, Any]] = {
    "8/255": {"eps": 8 / 255},
    "16/255": {"eps": 16 / 255},
    "beta": {"eps": None, "passes": 400},
}
CLASSES = ("airplane", "dog", "frog")


def rows(given: Namespace) -> dict[str, dict[str, Any]]:
    """Name of a row -> options of its audit."""
    weights = given.shared / "weights"
    found: dict[str, dict[str, Any]] = {}
    for budget in ("8/255", "16/255", "beta"):
        for choice in ("nearest", "random", "farthest"):
            found[f"{choice}, {budget}"] = {"base_choice": choice, **BUDGETS[budget]}
    found["mobilenetv2_100"] = {"model": f"mobilenetv2_100={weights / 'mobilenetv2_100.safetensors'}"}
    found["squeezenet1_1"] = {"model": f"squeezenet1_1={weights / 'squeezenet1_1.safetensors'}"}
    found["tf_efficientnet_lite1"] = {"model": "tf_efficientnet_lite1"}
    found["three classes"] = {"data": three_classes(given), "view": "squash", "size": 128}
    return found


def three_classes(given: Namespace) -> Any:
    """A cut of CIFAR-10 as .npz: the first 1,000 training pictures and 200 test pictures of each class."""
    path = RUNS / "three-classes.npz"
    if path.exists():
        return path
    cifar = data.load(given.shared / "data/cifar10")
    numbers = [cifar.classes.index(name) for name in CLASSES]
    held = {}
    for split, images, count in (("train", cifar.train, 1000), ("test", cifar.test, 200)):
        chosen = [np.flatnonzero(images.labels == number)[:count] for number in numbers]
        held[f"x_{split}"] = np.stack([np.asarray(images[int(i)]) for some in chosen for i in some])
        held[f"y_{split}"] = np.repeat(np.arange(len(CLASSES)), [len(some) for some in chosen])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **held)
    return path


def main() -> None:
    given = arguments(__doc__ or "")
    found: dict[str, Any] = {}
    wanted = 8 if given.short else 64
    left: list[str] = []

    def measure(name: str, **options: Any) -> list[dict[str, Any]]:
        run = "bases-" + name.replace(", ", "-").replace("/", "-").replace(" ", "-")
        summary, out = audited(run, given, **options)
        outcomes = journal.rows(out / "journal.jsonl")
        l2 = median(row["l2"][0] for row in outcomes)
        found[name] = {**{key: summary[key] for key in KEPT}, "median_l2": round(l2, 3)}
        write("bases", {"n": wanted, "rows": found}, given)
        return outcomes

    for name, options in rows(given).items():
        outcomes = measure(name, targets=wanted, **options)
        if name == "nearest, beta":
            left = [row["target_id"] for row in outcomes if row["eligible"] and not row["success"]]
    if left:
        measure("nearest, beta, those left", target=tuple(left), eps=None, passes=1600)


if __name__ == "__main__":
    main()
