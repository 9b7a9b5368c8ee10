"""Poisons as the user stores them: stored as x crafted through x l-inf, and attackers who are wrong about the view.

    python benchmarks/storage.py [SHARED] [--cache FOLDER] [--short]

Dog against fish, EfficientNet-Lite0 at 224 pixels, 64 targets a cell. Poisons are crafted for the whole picture
(`--view squash`) or for the resize to 256 and the crop to 224, with and without --robust; each set is then stored as PNG
and as JPEG, read back, and judged under both views by victims trained from a seed that no attack has seen. About 40
minutes on 2 cores; runs lie in runs/bench and go on where they were. The result is benchmarks/results/storage.json.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from bench import arguments, audited, rate, write
from PIL import Image

from poisonfrogs import Audit, journal, pipeline
from poisonfrogs.judge import HeadJudge, Scene
from poisonfrogs.pictures import decode, encode
from poisonfrogs.train import PaperHead
from poisonfrogs.types import Edit

STORES = ("png", "jpeg:95", "jpeg:90", "jpeg:75")
VIEWS = ("squash", "model")  # the whole picture; resized to 256, cropped to 224
# (view that the attacker crafts for, what else he expects, l-inf in 255ths)
CRAFTED = [
    ("squash", None, 8),
    ("squash", "jpeg:75-95", 8),
    ("squash", "jpeg:75-95", 16),
    ("squash", "jpeg:75-95,crop", 8),
    ("squash", None, 16),
    ("model", None, 8),
    ("squash", "crop", 8),
    ("squash", "jpeg:75-95,crop", 16),
]
SEED = 1  # of the victims; the attacks have 0


def scene(given: Namespace, view: Any) -> Scene:
    """Dog against fish under a view, with the features that a victim trains on."""
    options = Audit(data=given.shared / "data/dogfish", view=view, cache=given.cache)
    net, dataset = pipeline.network(options), pipeline.loaded(options)
    found = pipeline.featurised(options, net, {"train": dataset.train, "test": dataset.test}, lambda *_: None)
    train, test = found["train"].matrix, found["test"].matrix
    return Scene(net, dataset.classes, dataset.train, dataset.test, dataset.test, train, test)


def fell(place: Scene, rows: list[dict[str, Any]], folder: Path, store: str) -> tuple[int, int]:
    """(targets that fell, targets that the control gets right), the poisons stored so."""
    classes = list(place.classes)
    targets = [place.test.ids.index(row["target_id"]) for row in rows]
    pixels = [np.asarray(Image.open(folder / row["poison_files"][0])) for row in rows]
    stored = [decode(encode(one, store)).image for one in pixels]
    bases = [place.train[place.train.ids.index(row["base_ids"][0])] for row in rows]
    edits = [
        Edit(added=(image,), label=classes.index(row["base_class"]))
        for images in (stored, bases)
        for image, row in zip(images, rows, strict=True)
    ]
    verdicts = HeadJudge(PaperHead())(place, edits, targets * 2, seed=SEED)
    said = [classes[verdict.probabilities.argmax()] for verdict in verdicts]
    poisoned, control = said[: len(rows)], said[len(rows) :]
    right = [one == row["target_class"] for one, row in zip(control, rows, strict=True)]
    won = [ok and one == row["base_class"] for ok, one, row in zip(right, poisoned, rows, strict=True)]
    return sum(won), sum(right)


def main() -> None:
    given = arguments(__doc__ or "")
    places = {view: scene(given, view) for view in VIEWS}
    cells = []
    for view, expected, levels in CRAFTED:
        name = f"storage-{view}-{expected or 'nothing'}-{levels}".replace(":", "").replace(",", "-")
        options: dict[str, Any] = {
            "view": view,
            "robust": expected,
            "eps": levels / 255,
            "targets": 8 if given.short else 64,
        }
        summary, folder = audited(name, given, **options)
        rows = journal.rows(folder / "journal.jsonl")
        for seen in VIEWS:
            for store in STORES:
                successes, eligible = fell(places[seen], rows, folder, store)
                cell = {"crafted_for": view, "robust": expected, "linf": levels, "view": seen, "store": store}
                cells.append({**cell, **rate(successes, eligible), "median_passes": summary["median_passes"]})
                print(cells[-1], flush=True)
        write("storage", {"n": 8 if given.short else 64, "cells": cells}, given)  # as far as it is


if __name__ == "__main__":
    main()
