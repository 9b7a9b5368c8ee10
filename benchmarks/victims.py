"""The poisons of dogfish_all.py before other victims: trained anew from ten other seeds, each beside its controls.

    python benchmarks/victims.py [SHARED] [--cache FOLDER] [--short]

A victim by the paper's recipe depends on its seed (first weights, order of the mini-batches). How many of the same 782
stored poisons fell their target whatever the seed, and how much of the accuracy drop is the seed's? How much is the target's own is
seen from perfect collisions: the target's own features under the wrong label, which no picture reaches. About 20 minutes on 2
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
MANY = 2.5  # pictures lost, averaged over the seeds: such targets are listed


def main() -> None:
    given = arguments(__doc__ or "")
    _, folder = attacked(given)
    rows = journal.rows(folder / "journal.jsonl")
    place = scene(given, "model")
    targets = torch.tensor([place.test.ids.index(row["target_id"]) for row in rows])
    base = torch.tensor([place.classes.index(row["base_class"]) for row in rows])
    poisons = place.net.features([Image.open(folder / row["poison_files"][0]).convert("RGB") for row in rows])
    bases = place.train_features[[place.train.ids.index(row["base_ids"][0]) for row in rows]]
    aims, pictures = place.target_features[targets], len(place.test) - 1
    found: dict[str, Any] = {}
    fallen, lost, perfect_lost = [], [], []
    for seed in SEEDS[:2] if given.short else SEEDS:
        control, control_right = asked(place, bases, base, targets, seed)
        eligible = control.argmax(1) == torch.from_numpy(place.test.labels)[targets]
        poisoned, right = asked(place, poisons, base, targets, seed)
        perfect, perfect_right = asked(place, aims, base, targets, seed)
        lost.append(control_right - right)
        perfect_lost.append(control_right - perfect_right)
        fallen.append((poisoned.argmax(1) == base) | ~eligible)
        found[str(seed)] = {
            "control_wrong": int((~eligible).sum()),
            **counted(poisoned.gather(1, base[:, None])[eligible, 0], lost[-1], pictures),
            "perfect_collisions": counted(perfect.gather(1, base[:, None])[eligible, 0], perfect_lost[-1], pictures),
        }
        print(seed, found[str(seed)], flush=True)
    each, aimed = torch.stack(lost).double(), torch.stack(perfect_lost).double()
    most = each.mean(0) >= MANY
    result = {
        "n": len(rows),
        "seeds": found,
        "fell_wherever_the_control_was_right": rate(int(torch.stack(fallen).all(0).sum()), len(rows)),
        "mean_over_seeds": {
            "mean_accuracy_drop": round(float(each.mean()) / pictures, 6),
            "worst_accuracy_drop": round(float(each.mean(0).max()) / pictures, 6),
            "perfect_mean_accuracy_drop": round(float(aimed.mean()) / pictures, 6),
            "perfect_worst_accuracy_drop": round(float(aimed.mean(0).max()) / pictures, 6),
        },
        "correlation_between_seeds": round(correlation(each), 3),
        "correlation_with_perfect_collisions": round(
            float(torch.corrcoef(torch.stack([each.mean(0), aimed.mean(0)]))[0, 1]), 3
        ),
        "targets_that_lose_most": {
            rows[i]["target_id"]: [round(float(table[:, i].mean()), 2) for table in (each, aimed)]
            for i in most.nonzero()[:, 0].tolist()
        },
    }
    write("victims", result, given)


def counted(confidence: Tensor, lost: Tensor, pictures: int) -> dict[str, Any]:
    """Of the base class at the eligible targets (two classes: above a half they fell), and of all trials."""
    return {
        **rate(int((confidence > 0.5).sum()), len(confidence)),
        "median_confidence": round(float(confidence.median()), 4),
        "least_confidence": round(float(confidence.min()), 4),
        "mean_accuracy_drop": round(float(lost.double().mean()) / pictures, 6),
        "worst_accuracy_drop": round(int(lost.max()) / pictures, 6),
        "trials_by_pictures_lost": dict(sorted(Counter(lost.tolist()).items())),
    }


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
