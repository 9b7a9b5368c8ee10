"""Certified heads on frozen features: python benchmarks/certified.py dogfish|cifar10 [SHARED]

The frontier of every family on all test pictures; the best of it at so many operations, chosen on one half of the test
pictures and reported on the other, and swapped; perfect collisions against it; many small heads beside a loop of
scikit-learn's. dogfish: two minutes on 2 cores once its features are cached; cifar10 (all 60,000 at 224 pixels): a quarter of an
hour, and forty minutes more for the features. The result is benchmarks/results/certified_NAME.json.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifier

from poisonfrogs import (
    NeighbourVotes,
    PartitionVotes,
    RadiusVotes,
    StableHead,
    extract_features,
    load_data,
    load_model,
    wilson,
)
from poisonfrogs.certified import Answers, CertifiedClassifier
from poisonfrogs.certified.classifier import whole_numbers
from poisonfrogs.certified.saved import family, parameters
from poisonfrogs.features import default_cache
from poisonfrogs.logistic import Rows
from poisonfrogs.pipeline import hardware, versions
from poisonfrogs.train import PaperHead

ROOT = Path(__file__).parent.parent
THRESHOLDS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
SETTINGS: dict[str, dict[str, Any]] = {
    "dogfish": {
        "view": {"view": "model"},
        "operations": [1, 5, 19, 96, 192, 288, 384, 575],
        "attacks": [1, 5, 18, 90],
        "heads": [
            *(NeighbourVotes(k) for k in (59, 191, 381, 761, 901)),
            *(RadiusVotes(t) for t in THRESHOLDS),
            *(PartitionVotes(n) for n in (59, 191, 381)),
            PartitionVotes(191, run_off=True),
            *(StableHead(alpha) for alpha in (190.0, 1900.0, 5700.0)),
        ],
        "speed": 300,
    },
    "cifar10": {
        "view": {"view": "squash", "size": 224},
        "operations": [1, 5, 9, 20, 50, 100, 250, 500, 1000],
        "attacks": [1, 20, 100, 500],
        "heads": [
            *(PartitionVotes(n, run_off=run_off) for n in (51, 101, 251, 1001) for run_off in (False, True)),
            *(RadiusVotes(t) for t in (0.4, 0.45, 0.5, 0.55)),
            *(NeighbourVotes(k) for k in (201, 1001, 5001)),
        ],
        "speed": 1000,
    },
}


def main() -> None:
    name = sys.argv[1]
    shared = Path(sys.argv[2] if len(sys.argv) > 2 else os.environ.get("POISONFROGS_SHARED", ROOT.parent / "shared"))
    setting = SETTINGS[name]
    data, net = load_data(shared / "data" / name), load_model("tf_efficientnet_lite0", **setting["view"])
    cache = Path(os.environ.get("POISONFROGS_CACHE", default_cache()))
    train, test = (extract_features(net, part, cache=cache).matrix.numpy() for part in (data.train, data.test))
    y, labels, at = data.train.labels, data.test.labels, setting["operations"]
    half = np.array([int(content[:8], 16) % 2 == 0 for content in data.test.hashes])
    frontier, said = [], []
    for head in setting["heads"]:
        started = time.perf_counter()
        head.set_params(classes=range(len(data.classes))).fit(train, y)
        fitted = time.perf_counter()
        said.append(head.answers(test))
        seconds = [round(fitted - started, 2), round(time.perf_counter() - fitted, 2)]
        frontier.append(row(head, said[-1], labels, at) | {"fit_seconds": seconds[0], "answer_seconds": seconds[1]})
        print(frontier[-1], flush=True)
    undefended = usual(train, y, test, labels, len(data.classes))
    result = {
        "n": len(labels),
        "n_train": len(y),
        "model": {"name": net.name, "weights": net.weights, **setting["view"]},
        "undefended_accuracy": undefended,
        "undefended_ci95": wilson(round(undefended * len(labels)), len(labels)),
        "best_at": {str(r): best(setting["heads"], said, labels, half, r, at) for r in at},
        "frontier": frontier,
        "perfect_collisions": collisions(setting, said, test, labels),
        "speed": speed(train, y, setting["speed"]),
        "versions": versions(),
        "hardware": hardware(torch.device("cpu")),
    }
    (ROOT / f"benchmarks/results/certified_{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def row(head: CertifiedClassifier, said: Answers, labels: np.ndarray, at: list[int]) -> dict[str, Any]:
    right = said.codes == labels
    held = {str(r): int((right & (said.radius >= r)).sum()) for r in at}
    return {
        "family": family(head),
        "parameters": parameters(head),
        "accuracy": float(right.mean()),
        "median_radius": float(np.median(np.where(right, said.radius, 0))),
        "certified": {r: count / len(labels) for r, count in held.items()},
        "ci95": {r: wilson(count, len(labels)) for r, count in held.items()},
    }


def usual(x: np.ndarray, y: np.ndarray, test: np.ndarray, labels: np.ndarray, classes: int) -> float:
    features, none = torch.from_numpy(x), torch.empty(1, 0, dtype=torch.int64)
    head = PaperHead()(Rows(features, torch.from_numpy(y), features[None, :0], none, none), classes, seed=0)
    return float((head.logits(torch.from_numpy(test))[0].argmax(1).numpy() == labels).mean())


def best(
    heads: list[CertifiedClassifier], said: list[Answers], labels: np.ndarray, half: np.ndarray, r: int, at: list[int]
) -> dict[str, Any]:
    """Each half of the test pictures under the head that certifies most of the other half against r operations."""
    held = [(one.codes == labels) & (one.radius >= r) for one in said]
    chosen = [
        max(range(len(said)), key=lambda i: (held[i][rows].sum(), said[i].radius.sum())) for rows in (~half, half)
    ]
    mixed = Answers(
        *(np.where(half, getattr(said[chosen[0]], f), getattr(said[chosen[1]], f)) for f in ("codes", "radius")), None
    )
    return {**row(heads[chosen[0]], mixed, labels, at), "of_the_other_half": parameters(heads[chosen[1]])}


def collisions(
    setting: dict[str, Any], said: list[Answers], test: np.ndarray, labels: np.ndarray
) -> list[dict[str, Any]]:
    """As many copies of a test picture's own feature as there are operations, under its strongest rival: 40 targets a head.

    What no picture can exceed against radius and neighbour votes. None may succeed within the radius. The copies are put
    into the fitted head, which is the head that a fit on the poisoned set gives, but for the order of its rows.
    """
    found = []
    for head, answers in zip(setting["heads"], said, strict=True):
        if family(head) not in ("radius", "neighbours"):
            continue
        asked = [i for i in np.linspace(0, len(labels) - 1, 40).astype(int) if answers.codes[i] == labels[i]]
        for r in setting["attacks"]:
            changed = np.array([differs(head, answers, test[i], i, r) for i in asked])
            certified = np.array([answers.radius[i] >= r for i in asked])
            found.append(
                {
                    "family": family(head),
                    "parameters": parameters(head),
                    "insertions": r,
                    "n": len(asked),
                    "fell": int(changed.sum()),
                    "ci95": wilson(int(changed.sum()), len(asked)),
                    "not_certified": int((~certified).sum()),
                    "broken": int((changed & certified).sum()),
                }
            )
            print(found[-1], flush=True)
    return found


def differs(head: CertifiedClassifier, answers: Answers, feature: np.ndarray, i: int, r: int) -> bool:
    """Whether r copies of a picture under its strongest rival change its answer."""
    rival = int(np.argsort(answers.probabilities[i], kind="stable")[-2])
    row = torch.from_numpy(feature[None])
    examples = torch.cat([head.head_.examples, whole_numbers(row)[0].short().expand(r, -1)])
    label = torch.zeros(r, head.head_.member.shape[1], dtype=torch.int8)
    label[:, rival] = 1
    poisoned = type(head.head_)(examples=examples, member=torch.cat([head.head_.member, label]), **vote_of(head.head_))
    with torch.inference_mode():
        return int(poisoned(row).codes[0]) != answers.codes[i]


def vote_of(head: Any) -> dict[str, int]:
    """What else a head of votes holds: `least` or `k`."""
    return {name: value for name, value in vars(head).items() if name in ("least", "k")}


def speed(x: np.ndarray, y: np.ndarray, count: int) -> dict[str, Any]:
    """So many heads at once, beside a loop of scikit-learn's ridge classifier over parts of the same size."""
    started = time.perf_counter()
    PartitionVotes(count).fit(x, y)
    ours = time.perf_counter() - started
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    parts = np.random.default_rng(0).permutation(len(y))
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in np.array_split(parts, count):
            if len(np.unique(y[part])) > 1:
                RidgeClassifier(alpha=0.1).fit(z[part], y[part])
    theirs = time.perf_counter() - started
    return {"heads": count, "seconds": round(ours, 2), "sklearn_seconds": round(theirs, 2)}


if __name__ == "__main__":
    main()
