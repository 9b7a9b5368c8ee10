"""The poisons of dogfish_all.py before other victims: trained anew from ten other seeds, each beside its controls.

    python benchmarks/victims.py [SHARED] [--cache FOLDER] [--short]

A victim by the paper's recipe depends on its seed (first weights, order of the mini-batches). How many of the same 782
stored poisons fell their target whatever the seed, and how much of the accuracy drop is the seed's? About 15 minutes on 2
cores, where dogfish_all.py has been run; it is run first where not. The result is benchmarks/results/victims.json.
"""

from collections import Counter
from typing import Any

import torch
from bench import arguments, rate, write
from dogfish_all import attacked
from PIL import Image
from storage import scene
from torch import Tensor

from poisonfrogs import journal
from poisonfrogs.judge import Scene
from poisonfrogs.logistic import Rows
from poisonfrogs.train import PaperHead

SEEDS = range(1, 11)  # the audit's own victims are of 0's
AT_ONCE = 128  # heads


def main() -> None:
    given = arguments(__doc__ or "")
    _, folder = attacked(given)
    rows = journal.rows(folder / "journal.jsonl")
    place = scene(given, "model")
    targets = torch.tensor([place.test.ids.index(row["target_id"]) for row in rows])
    base = torch.tensor([place.classes.index(row["base_class"]) for row in rows])
    poisons = place.net.features([Image.open(folder / row["poison_files"][0]).convert("RGB") for row in rows])
    bases = place.train_features[[place.train.ids.index(row["base_ids"][0]) for row in rows]]
    found: dict[str, Any] = {}
    fallen, lost = [], []
    for seed in SEEDS[:2] if given.short else SEEDS:
        (said, right), (control, control_right) = (
            asked(place, added, base, targets, seed) for added in (poisons, bases)
        )
        eligible = control.argmax(1) == torch.from_numpy(place.test.labels)[targets]
        fell = eligible & (said.argmax(1) == base)
        drop = control_right - right
        confidence = said.gather(1, base[:, None])[eligible]
        fallen.append(fell | ~eligible)
        lost.append(drop)
        found[str(seed)] = {
            **rate(int(fell.sum()), int(eligible.sum())),
            "control_wrong": int((~eligible).sum()),
            "median_confidence": round(float(confidence.median()), 4),
            "least_confidence": round(float(confidence.min()), 4),
            "mean_accuracy_drop": round(float(drop.double().mean()) / (len(place.test) - 1), 6),
            "worst_accuracy_drop": round(int(drop.max()) / (len(place.test) - 1), 6),
            "trials_by_pictures_lost": dict(sorted(Counter(drop.tolist()).items())),
        }
        print(seed, found[str(seed)], flush=True)
    each, pictures = torch.stack(lost).double(), len(place.test) - 1
    result = {
        "n": len(rows),
        "seeds": found,
        "fell_wherever_the_control_was_right": rate(int(torch.stack(fallen).all(0).sum()), len(rows)),
        "mean_over_seeds": {
            "mean_accuracy_drop": round(float(each.mean()) / pictures, 6),
            "worst_accuracy_drop": round(float(each.mean(0).max()) / pictures, 6),
        },
        "correlation_between_seeds": round(correlation(each), 3),
    }
    write("victims", result, given)


def asked(place: Scene, added: Tensor, base: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Victims on the training set and one picture each: what they say of their targets, and how many others are right."""
    labels, truth = torch.from_numpy(place.train.labels), torch.from_numpy(place.test.labels)
    said, right = [], []
    for some in torch.arange(len(added)).split(AT_ONCE):
        nothing = torch.empty(len(some), 0, dtype=torch.int64)
        rows = Rows(place.train_features, labels, added[some][:, None], base[some][:, None], nothing)
        heads = PaperHead()(rows, len(place.classes), seed=seed)
        said.append(heads.predict(place.target_features[targets[some]][:, None])[:, 0])
        correct = heads.logits(place.target_features).argmax(-1) == truth
        right.append(correct.sum(1) - correct.gather(1, targets[some][:, None])[:, 0].long())
    return torch.cat(said), torch.cat(right)


def correlation(lost: Tensor) -> float:
    """Mean correlation between two seeds of the pictures lost, trial by trial: (seeds, trials)."""
    table = torch.corrcoef(lost)
    count = len(table)
    return float((table.sum() - count) / (count * (count - 1)))


if __name__ == "__main__":
    main()
