"""The recipe decides: the same poisons against heads of other L2 strengths, on features as they are and normalised.

    python benchmarks/recipe.py [SHARED] [--cache FOLDER] [--short]

Dog against fish, EfficientNet-Lite0, 64 targets, 8/255. The poisons are crafted once, by an attacker who does not know
the recipe; each head is a converged logistic regression of inverse strength C, or the paper's. About 5 minutes on 2
cores, mostly crafting. The result is benchmarks/results/recipe.json.
"""

from typing import Any

import torch
from bench import arguments, audited, rate, write
from PIL import Image
from storage import scene
from torch.nn.functional import normalize

from poisonfrogs import journal
from poisonfrogs.logistic import Rows
from poisonfrogs.train import recipe

HEADS = ("paper", *(f"logistic:{c:g}" for c in (1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100, 1000)))


def main() -> None:
    given = arguments(__doc__ or "")
    wanted = 8 if given.short else 64
    _, folder = audited("recipe", given, targets=wanted)
    rows = journal.rows(folder / "journal.jsonl")
    place = scene(given, "model")
    labels = torch.from_numpy(place.train.labels)
    targets = place.target_features[[place.test.ids.index(row["target_id"]) for row in rows]]
    base, true = (
        torch.tensor([place.classes.index(row[key]) for row in rows]) for key in ("base_class", "target_class")
    )
    poisons = place.net.features([Image.open(folder / row["poison_files"][0]).convert("RGB") for row in rows])
    bases = place.train_features[[place.train.ids.index(row["base_ids"][0]) for row in rows]]
    cells = []
    for normalised in (False, True):
        seen = {"train": place.train_features, "targets": targets, "poisons": poisons, "bases": bases}
        seen |= {"test": place.target_features[: len(place.test)]}
        if normalised:
            seen = {name: normalize(part, dim=1) for name, part in seen.items()}
        for head in HEADS:
            said: dict[str, Any] = {}
            for arm in ("poisons", "bases"):
                nothing = torch.empty(len(rows), 0, dtype=torch.int64)
                heads = recipe(head)(Rows(seen["train"], labels, seen[arm][:, None], base[:, None], nothing), 2, seed=1)
                said[arm] = heads.predict(seen["targets"][:, None])[:, 0]
                said[f"{arm} accuracy"] = accuracy(heads.logits(seen["test"]), torch.from_numpy(place.test.labels))
            right = said["bases"].argmax(1) == true
            fell = right & (said["poisons"].argmax(1) == base)
            confidence = said["poisons"].gather(1, base[:, None])[right]
            cells.append(
                {
                    "head": head,
                    "normalised": normalised,
                    **rate(int(fell.sum()), int(right.sum())),
                    "control_wrong": int((~right).sum()),
                    "median_confidence": round(float(confidence.median()), 4) if len(confidence) else None,
                    "accuracy": said["bases accuracy"],
                }
            )
            print(cells[-1], flush=True)
    write("recipe", {"n": len(rows), "cells": cells}, given)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return round(float((logits.argmax(-1) == labels).float().mean()), 4)


if __name__ == "__main__":
    main()
