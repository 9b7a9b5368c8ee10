"""Which pictures are attacked, and which bases their poisons are made from."""

from __future__ import annotations

import itertools
import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from poisonfrogs import data
from poisonfrogs.data import DataSet, Images
from poisonfrogs.plan import GROUP, Audit, Trial, seed_of
from poisonfrogs.types import InputError

Drawn = tuple[int, int]  # (row of the target pictures, class of the base)


def turns(audit: Audit, classes: Sequence[str]) -> list[tuple[int, int]]:
    """The ordered pairs (class of the target, class of the base) that are asked for. Raises InputError."""
    target = class_number(audit.target_class, classes, "--target-class")
    base = class_number(audit.base_class, classes, "--base-class")
    return pairs(len(classes), target, base)


def class_number(name: str | None, classes: Sequence[str], flag: str) -> int | None:
    """The number of a class. Raises InputError for an unknown one."""
    if name is None:
        return None
    if name not in classes:
        raise InputError(f"{flag} {name!r} is no class of the data; expected one of {', '.join(classes[:12])}")
    return list(classes).index(name)


def pairs(classes: int, target: int | None, base: int | None) -> list[tuple[int, int]]:
    """Every ordered pair (class of the target, class of the base) that is asked for, each class of targets in turn.

    >>> pairs(3, None, None)
    [(0, 1), (1, 2), (2, 0), (0, 2), (1, 0), (2, 1)]
    """
    every = ((t, (t + further) % classes) for further in range(1, classes) for t in range(classes))
    found = [(t, b) for t, b in every if target in (None, t) and base in (None, b)]
    if not found:
        raise InputError("--target-class and --base-class name the same class; a poison needs two")
    return found


def draw(
    wanted: int | Literal["all"],
    labels: np.ndarray,
    contents: Sequence[Hashable],
    turns: Sequence[tuple[int, int]],
    seed: int,
    confidence: np.ndarray | None = None,
) -> list[tuple[int, int]]:
    """(row of the test pictures, base class): the pairs take turns, nothing is drawn twice, no copy either.

    `labels` (n,), -1 for pictures that are trained on; `contents`: equal for copies of one picture.

    With `confidence`, a clean classifier's probabilities (n, classes) for the test pictures: not at random, but those
    that it gets right, the least confident first. Raises InputError when more targets are wanted than there are.
    """
    generator = np.random.default_rng(seed_of(seed, "targets"))
    waiting = {t: list(generator.permutation(np.flatnonzero(labels == t))) for t in sorted({t for t, _ in turns})}
    if not any(waiting.values()):
        raise InputError(
            "every test picture of the classes asked for is also a training picture, and so no target; "
            "remove them from one side, or give a --target that is not trained on"
        )
    if confidence is not None:
        waiting = {t: _surest_first(rows, confidence, t) for t, rows in waiting.items()}
    available = len({contents[row] for rows in waiting.values() for row in rows})
    count = available if wanted == "all" else wanted
    if not available:
        raise InputError(
            "the clean classifier gets no test picture of the classes asked for right; give --target-choice random"
        )
    if count > available:
        right = "" if confidence is None else " that the clean classifier gets right"
        raise InputError(
            f"--targets {count} is more than the {available} test pictures of the classes asked for{right}; "
            "give fewer, or all (copies of a picture are one target)"
        )
    drawn: dict[Hashable, Drawn] = {}  # by content
    for target_class, base_class in itertools.cycle(turns):
        if len(drawn) >= count:
            break
        rows = waiting[target_class]
        while rows and contents[rows[-1]] in drawn:
            rows.pop()
        if rows:
            row = int(rows.pop())
            drawn[contents[row]] = row, base_class
    return list(drawn.values())


def _surest_first(rows: Sequence[int], confidence: np.ndarray, label: int) -> list[int]:
    """The rows that are rightly classified, the least confident last."""
    right = [row for row in rows if confidence[row].argmax() == label]
    return sorted(right, key=lambda row: -confidence[row, label])


def nearest(target: np.ndarray, features: np.ndarray, rows: np.ndarray, count: int) -> list[int]:
    """The rows whose features are nearest to the target's, nearest first."""
    distances = np.square(features[rows] - target).sum(1)
    return [int(rows[i]) for i in np.argsort(distances, kind="stable")[:count]]


def outside(audit: Audit, dataset: DataSet) -> Images:
    """Targets that are files outside DATA, as pictures of --target-class. Raises InputError."""
    known = {*dataset.test.ids, *dataset.train.ids, *dataset.skipped}
    paths = [name for name in audit.target if _identity(dataset.root, name) not in known]
    for path in paths:
        if not Path(path).is_file():
            example = dataset.test.ids[0]
            raise InputError(f"--target {path} is no id of {dataset.root} and no file; expected such as {example}")
        if audit.target_class is None:
            raise InputError(f"--target {path} lies outside {dataset.root}; say what it shows with --target-class")
    label = class_number(audit.target_class, dataset.classes, "--target-class") or 0
    return data.files([str(path) for path in paths], [label] * len(paths))


def drawn(
    audit: Audit,
    dataset: DataSet,
    targets: Images,
    pairs: Sequence[tuple[int, int]],
    confidence: np.ndarray | None = None,
) -> list[Drawn]:
    """The targets asked for by name, each against every base class; or a draw (see `draw`). Raises InputError.

    A picture that is trained on with its right label is no target: the rate would be that of other pictures, lowered.
    """
    trained_on = dict(zip(dataset.train.hashes, dataset.train.ids, strict=True))
    if not audit.target:
        contents = dataset.test.hashes
        unseen = [content not in trained_on for content in contents]
        return draw(audit.targets, np.where(unseen, dataset.test.labels, -1), contents, pairs, audit.seed, confidence)
    named: dict[str, int] = {}  # by content: named twice is one target, whichever way it was written
    for name in audit.target:
        row = _row(name, dataset, targets)
        named.setdefault(targets.hashes[row], row)
    rows = list(named.values())
    found = [(row, base) for row in rows for target, base in pairs if target == targets.labels[row]]
    for row in rows:
        if targets.hashes[row] in trained_on:
            raise InputError(
                f"--target {targets.ids[row]} is a copy of the training picture {trained_on[targets.hashes[row]]}; "
                "give one that the classifier has not seen"
            )
    left_out = set(rows) - {row for row, _ in found}
    if left_out:
        row = min(left_out)
        shown = dataset.classes[targets.labels[row]]
        raise InputError(f"--target {targets.ids[row]} shows {shown!r}, which --target-class or --base-class rules out")
    return found


def possible(audit: Audit, dataset: DataSet, outside: Images, turns: Sequence[tuple[int, int]]) -> list[Drawn]:
    """What would be drawn. Raises InputError for what no feature could make possible, before any is computed."""
    found = drawn(audit, dataset, data.joined(dataset.test, outside), turns)
    for base_class in sorted({base for _, base in turns}):
        _enough(audit, dataset, base_class)
    return found


def _row(name: str, dataset: DataSet, targets: Images) -> int:
    identity = _identity(dataset.root, name)
    if identity in dataset.skipped:
        raise InputError(f"--target {name} cannot be read ({dataset.skipped[identity]}); give a whole picture")
    if identity in dataset.train.ids:
        raise InputError(f"--target {name} is a training picture; give one that the classifier has not seen")
    return targets.ids.index(identity if identity in targets.ids else name)


def _identity(root: Path, name: str) -> str:
    """The id that a path has or would have: relative to DATA, whichever way it was written."""
    path = Path(name)
    if path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    whole, base = Path(os.path.abspath(path)), Path(os.path.abspath(root))  # noqa: PTH100  (links are not followed)
    if (path.is_absolute() or path.is_file()) and whole.is_relative_to(base):
        return whole.relative_to(base).as_posix()
    return path.as_posix()


def trials(
    audit: Audit,
    dataset: DataSet,
    drawn: Sequence[Drawn],
    targets: Images,
    features: tuple[np.ndarray, np.ndarray],
    group: int,
) -> list[Trial]:
    """A trial for each target drawn, with its bases; `features` of the training pictures and of the targets.

    `group`: trials that are crafted and judged together.
    Raises InputError when a class has fewer training pictures than poisons are wanted.
    """
    return [
        Trial(
            trial_id=number,
            group=number // group,
            block=number // (audit.trials_per_seed or GROUP),
            target=target,
            target_id=targets.ids[target],
            target_class=int(targets.labels[target]),
            base_class=base_class,
            bases=tuple(bases),
            base_ids=tuple(dataset.train.ids[row] for row in bases),
        )
        for number, (target, base_class) in enumerate(drawn)
        for bases in [_bases(audit, dataset, targets.ids[target], base_class, features[0], features[1][target])]
    ]


def _bases(
    audit: Audit, dataset: DataSet, target: str, base_class: int, train: np.ndarray, feature: np.ndarray
) -> list[int]:
    rows = _enough(audit, dataset, base_class)
    if audit.base_choice in ("nearest", "farthest"):
        ordered = nearest(feature, train, rows, len(rows))
        return (ordered if audit.base_choice == "nearest" else ordered[::-1])[: audit.poisons]
    generator = np.random.default_rng(seed_of(audit.seed, "bases", target, base_class))
    if audit.base_choice == "one":  # no diversity: what starts alike is crafted alike, so that poisons are copies
        return [int(generator.choice(rows))] * audit.poisons
    return [int(row) for row in generator.choice(rows, audit.poisons, replace=False)]


def _enough(audit: Audit, dataset: DataSet, base_class: int) -> np.ndarray:
    """The training rows of a base class. Raises InputError where they are fewer than the bases that poisons need."""
    rows = np.flatnonzero(dataset.train.labels == base_class)
    if len(rows) < audit.poisons and audit.base_choice != "one":
        raise InputError(
            f"--poisons {audit.poisons} is more than the {len(rows)} training pictures of class "
            f"{dataset.classes[base_class]!r}, and each poison needs a base of its own"
        )
    return rows


def groups(trials: Sequence[Trial]) -> dict[int, list[Trial]]:
    """The trials by their group, in order."""
    return {group: list(members) for group, members in itertools.groupby(trials, key=lambda trial: trial.group)}
