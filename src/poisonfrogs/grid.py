"""A grid of audits: a plan whose options are lists -> cells, each a run folder -> points with intervals."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from poisonfrogs import cluster, journal, pipeline, plan, plan_file, targets
from poisonfrogs.audit import auditor_of, run_audit, victim_of
from poisonfrogs.costs import Costs, costs
from poisonfrogs.data import DataSet
from poisonfrogs.plan import WHERE, Audit
from poisonfrogs.plan_file import options_of
from poisonfrogs.progress import Progress
from poisonfrogs.summary import counted, each_once, interval
from poisonfrogs.text import written
from poisonfrogs.types import InputError

SCHEMA_VERSION = 1
POOLED = "seed"  # repeats, not a variable: a point holds the trials of all seeds
KEPT = (
    "n_trials", "n_eligible", "n_success", "success_rate", "ci95", "watermark_only_rate", "watermark_only_ci95",
    "control_rate", "control_ci95", "n_failed_trials", "median_confidence", "clean_accuracy", "mean_accuracy_drop",
    "worst_accuracy_drop", "median_passes", "median_linf", "as_jpeg_rate", "as_jpeg_ci95",
)  # fmt: skip
VERDICTS = {  # interval of a point -> what each row of an eligible target says for it
    "ci95": "success",
    "watermark_only_ci95": "watermark_only_success",
    "as_jpeg_ci95": "as_jpeg_success",
}


@dataclass(frozen=True)
class Grid:
    """What a plan file asks for. Options that it leaves out have the defaults of their cell's context."""

    shared: Mapping[str, Any]  # options of all cells: DATA, where, and what does not vary
    axes: Mapping[str, Sequence[Any]]  # option, or class_pair -> its values, in the plan's order

    @property
    def out(self) -> Path:
        """The folder that holds the cells' folders."""
        return Path(self.shared.get("out", Audit.out))

    @cached_property
    def cells(self) -> dict[str, tuple[dict[str, Any], Audit]]:
        """Name of the run folder -> (a value for each axis, the audit)."""
        found = {}
        for values in itertools.product(*self.axes.values()):
            point = dict(zip(self.axes, values, strict=True))
            audit = Audit(**{**self.shared, **options_of(point)})
            name = _name(point, audit)
            found[name] = (point, replace(audit, out=self.out / name))
        return found


def run_grid(
    grid: Grid,
    *,
    progress: Progress = lambda stage, done, of: None,
    after: Callable[[Path], object] = lambda cell: None,
) -> dict[str, Any]:
    """Run the cells of a grid, or go on with them, and return what grid.json in its folder holds.

    `after` is told the folder of each cell that is done. Raises InputError, with nothing written, for what no
    cell could use.
    """
    out = grid.out
    _ours(out)
    dataset, wanted = _possible(grid)
    left = {name: wanted[name] for name, (_, audit) in grid.cells.items() if not _finished(audit)}
    ahead = _seconds_ahead(grid, dataset, left, progress)
    out.mkdir(parents=True, exist_ok=True)
    with journal.one_writer(out):
        _begin(out / "plan.json", _plan(grid, wanted, ahead))
        known: dict[str, _Cell] = {}
        ahead_of = _Clock(sum(left.values()), ahead)
        for place, (name, (_, audit)) in enumerate(grid.cells.items(), 1):
            title = f"cell {place} of {len(grid.cells)}{ahead_of.said()}"
            had = len(journal.rows(audit.out / "journal.jsonl"))
            started = time.perf_counter()
            try:
                run_audit(audit, progress=partial(_told, progress, title))
            except InputError as error:
                raise InputError(f"cell {name}: {error.args[0]}", *error.args[1:]) from error
            ahead_of.passed(left.get(name, 0), wanted[name] - had, time.perf_counter() - started)
            after(audit.out)
            found = summarised(grid, known)
            journal.write_json(out / "grid.json", found)
    return found


def _finished(audit: Audit) -> bool:
    return (audit.out / "summary.json").is_file()


def _begin(path: Path, found: Mapping[str, Any]) -> None:
    """Write plan.json, unless these cells were begun before: it says what all of them were to take."""
    held = json.loads(journal.read(path)) if path.exists() else {}
    if held.get("cells") != found["cells"]:
        journal.write_json(path, found)


def _told(progress: Progress, title: str, stage: str, done: int, of: int) -> None:
    progress(f"{title}: {stage}", done, of)


@dataclass
class _Clock:
    """How long the rest will take: by the estimate, until trials have been timed."""

    left: int  # trials of the cells that are not finished
    estimate: float | None  # seconds for all of them
    fresh: int = 0  # trials that were run now, and not before
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.guess = None if self.estimate is None else self.estimate / max(self.left, 1)

    def passed(self, trials: int, fresh: int, seconds: float) -> None:
        """A cell is done: how many of the trials that were left it had, and how many it ran."""
        self.left, self.fresh, self.seconds = (
            self.left - trials,
            self.fresh + fresh,
            self.seconds + seconds * (fresh > 0),
        )

    def said(self) -> str:
        """For a progress bar."""
        each = self.seconds / self.fresh if self.fresh else self.guess
        return "" if each is None else f", about {each * self.left / 60:.0f} min left"


@dataclass(frozen=True)
class _Cell:
    """What a finished cell left."""

    summary: dict[str, Any]
    classes: list[str]
    rows: list[Any]


def summarised(grid: Grid, known: dict[str, _Cell] | None = None) -> dict[str, Any]:
    """grid.json: a point for each combination of values but the seeds, whose trials it pools; and every cell.

    `known`: finished cells that were read before, by their names; more are put there.
    """
    known = {} if known is None else known
    points: dict[str, dict[str, Any]] = {}
    held: dict[str, list[Any]] = {}
    cleans: dict[str, list[Any]] = {}
    cells = []
    summaries: list[dict[str, Any]] = []
    classes = list[str]()
    for name, (given, audit) in grid.cells.items():
        values = {axis: _listed(value) for axis, value in given.items()}
        if name not in known and _finished(audit):
            known[name] = _read(audit.out)
        if name not in known:
            cells.append({"folder": name, "finished": False, **values})
            continue
        found, classes = known[name].summary, known[name].classes
        summaries.append(found)
        fired = [check["name"] for check in found["checks"]]
        figures = {key: found[key] for key in (*KEPT, "certified_success_rate", "clean_network")}
        cells.append({"folder": name, "finished": True, **values, **figures, "checks": fired})
        point = {axis: value for axis, value in values.items() if axis != POOLED}
        points[str(point)] = point
        held.setdefault(str(point), []).extend(known[name].rows)
        cleans.setdefault(str(point), []).append(found["clean_network"])
    summed = [
        point | _pooled(held[key], classes) | {"clean_network": _mean(cleans[key])} for key, point in points.items()
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "n": sum(len(rows) for rows in held.values()),
        "finished": all(cell["finished"] for cell in cells),
        "axes": {axis: [_listed(value) for value in values] for axis, values in grid.axes.items()},
        "points": summed,
        "cells": cells,
        "versions": _versions([found["versions"] for found in summaries]),
        "hardware": each_once(found["hardware"] for found in summaries),
    }


def _read(cell: Path) -> _Cell:
    summary, held = (json.loads(journal.read(cell / name)) for name in ("summary.json", "plan.json"))
    return _Cell(summary, held["data"]["classes"], journal.rows(cell / "journal.jsonl"))


def _versions(each: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Of all cells, by package."""
    packages = dict.fromkeys(package for one in each for package in one)
    return {package: each_once(one[package] for one in each if package in one) for package in packages}


def _listed(value: Any) -> Any:
    """As JSON holds a value."""
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _mean(cleans: Sequence[Any]) -> dict[str, float] | None:
    """Of the clean networks of a point's seeds; None where victims train a head alone."""
    measured = ("training_loss", "training_accuracy", "test_accuracy")
    return {key: fmean(one[key] for one in cleans) for key in measured} if all(cleans) else None


def _pooled(rows: Sequence[journal.Row], classes: Sequence[str]) -> dict[str, Any]:
    """The figures of a point. Under another seed the same target is no new one: an interval is as wide as its number of
    targets makes it, not its number of trials.
    """
    found: dict[str, Any] = {**counted(rows, classes)}
    for key, verdict in VERDICTS.items():
        asked = [row for row in rows if row["eligible"] and row[verdict] is not None]
        if asked:
            found[key] = interval([row[verdict] for row in asked], _targets(asked))
    return {"n": len(rows), "n_targets": len(set(_targets(rows))), **{key: found[key] for key in KEPT}}


def _targets(rows: Sequence[journal.Row]) -> list[tuple[str, str]]:
    """The target of each; one that is to become two classes is two, as no control is."""
    return [(row["target_id"], row["base_class"]) for row in rows]


def _possible(grid: Grid) -> tuple[DataSet, dict[str, int]]:
    """The data, and how many trials each cell has, by its name. Raises InputError with everything that is wrong."""
    complaints = dict[str, None]()
    wanted: dict[str, int] = {}
    for _, audit in grid.cells.values():
        _complaint(complaints, plan.validate, audit)
    _refuse(complaints)
    dataset = pipeline.loaded(next(audit for _, audit in grid.cells.values()))
    for name, (_, audit) in grid.cells.items():
        wanted[name] = _complaint(complaints, _drawn, audit, dataset) or 0
    audits = [audit for _, audit in grid.cells.values()]
    for audit in {audit.engine: audit for audit in audits}.values():
        _complaint(complaints, cluster.probe, audit.engine)
    for audit in {(audit.head, audit.victim): audit for audit in audits if not audit.retrained}.values():
        _complaint(complaints, victim_of, audit)
    for audit in {(one.model, one.weights, one.view, one.size, one.context): one for one in audits}.values():
        _complaint(complaints, partial(pipeline.network, untrained=audit.retrained), audit)
    for audit in {(audit.auditor, audit.view): audit for audit in audits}.values():
        _complaint(complaints, auditor_of, audit)
    _refuse(complaints)
    return dataset, wanted


def _refuse(complaints: Mapping[str, None]) -> None:
    if complaints:
        raise InputError(f"the plan cannot be run: {next(iter(complaints))}", *list(complaints)[1:])


def _complaint(complaints: dict[str, None], check: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return check(*arguments)
    except InputError as error:
        complaints.update(dict.fromkeys(error.args))
        return None


def _drawn(audit: Audit, dataset: DataSet) -> int:
    turns = targets.turns(audit, dataset.classes)
    outside = targets.outside(audit, dataset)
    return len(targets.possible(audit, dataset, outside, turns))


_COSTS = (
    *("model", "weights", "view", "size", "device", "precision", "context", "epochs", "clean_epochs"),
    *("learning_rate", "trials_per_seed"),  # other controls, which are not in the cache
)


def _seconds_ahead(grid: Grid, dataset: DataSet, left: Mapping[str, int], progress: Progress) -> float | None:
    """What the cells with trials left will cost at most, from a pass through each network and a few batches; None where
    that fails.
    """
    told: dict[str, Costs | None] = {}
    seeds: set[tuple[str, int]] = set()
    total = 0.0
    for name, trials in left.items():
        _, audit = grid.cells[name]
        network = str([getattr(audit, key) for key in _COSTS])
        if network not in told:
            progress("a pass through each network, for the time ahead", len(told), len(grid.cells))
            told[network] = costs(audit, dataset)
        each = told[network]
        if each is None:
            return None
        total += each.trial(audit) * trials / audit.workers
        if (network, audit.seed) not in seeds:  # later cells find the clean network and the controls in the cache
            seeds.add((network, audit.seed))
            total += each.clean + each.victim * -(-trials // (audit.trials_per_seed or trials))
    return total


def _plan(grid: Grid, wanted: Mapping[str, int], ahead: float | None) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "grid",
        "grid": {
            **_same(grid),
            "axes": {axis: [_listed(value) for value in values] for axis, values in grid.axes.items()},
        },
        "cells": [
            {"folder": name, "trials": wanted[name], **{axis: _listed(value) for axis, value in values.items()}}
            for name, (values, _) in grid.cells.items()
        ],
        "seconds_estimated": None if ahead is None else round(ahead),
        "versions": pipeline.versions(),
    }


def _same(grid: Grid) -> dict[str, Any]:
    """The options that all cells have alike."""
    held = [plan.identity(audit) for _, audit in grid.cells.values()]
    return {key: value for key, value in held[0].items() if all(one[key] == value for one in held)}


def _ours(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; expected a folder, or a name not yet taken")
    if not out.exists() or {child.name for child in out.iterdir()} <= {".lock", "plan.json.partial"}:  # of a kill
        return
    if journal.kind_of(out) != "grid":
        raise InputError(f"--out {out} is not empty and holds no grid; choose another folder")


def _name(point: Mapping[str, Any], audit: Audit) -> str:
    """Of a cell's folder: its values for people, and a digest of all its options, so that a grid may grow."""
    said = "-".join(f"{axis}-{written(value)}" for axis, value in point.items())
    digest = hashlib.sha256(json.dumps(plan.identity(audit), sort_keys=True).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', said).strip('-')[:80]}-{digest}".lstrip("-.")


def load_grid(path: Path, **where: Any) -> Grid:
    """A plan file: TOML whose keys are the options of an audit; a list is an axis, `class_pair` the pair of classes.

    `where`: those of plan.WHERE (data, out, cache, threads, workers, engine, ...) that go before what the file says.
    Raises InputError with every unknown key and impossible value.
    """
    axes = plan_file.read(path)
    beside = [key for key in where if key not in WHERE]
    if beside:
        flag = beside[0].replace("_", "-")
        raise InputError(f"--{flag} stands beside --plan; write it into {path} as {beside[0]} = ...")
    several = [key for key, values in axes.items() if key in WHERE and len(values) > 1]
    if several:
        raise InputError(f"{path}: {several[0]} says where, not what, and cannot be a list")
    fixed = options_of({key: values[0] for key, values in axes.items() if len(values) == 1})
    if "data" not in {**fixed, **where}:
        raise InputError(f'DATA is missing: give it on the command line, or as data = "..." in {path}')
    varied = {key: values for key, values in axes.items() if len(values) > 1}
    return Grid({**fixed, **where}, varied)
