"""A grid of audits: a plan whose options are lists -> cells, each a run folder -> points with intervals."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
import time
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from poisonfrogs import journal, pipeline, plan, targets
from poisonfrogs.audit import run_audit, seconds_a_pass
from poisonfrogs.data import DataSet
from poisonfrogs.plan import WHERE, Audit
from poisonfrogs.progress import Progress
from poisonfrogs.summary import counted
from poisonfrogs.text import number, written
from poisonfrogs.types import InputError

SCHEMA_VERSION = 1
PAIR = "class_pair"  # [target class, base class]: the two options that go together
POOLED = "seed"  # repeats, not a variable: a point holds the trials of all seeds
KEPT = (
    "n_trials", "n_eligible", "n_success", "success_rate", "ci95", "watermark_only_rate", "watermark_only_ci95",
    "control_rate", "control_ci95", "n_failed_trials", "median_confidence", "clean_accuracy", "mean_accuracy_drop",
    "worst_accuracy_drop", "median_passes",
)  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """What a plan file asks for."""

    base: Audit  # where, and what all cells share
    axes: Mapping[str, Sequence[Any]]  # option, or class_pair -> its values, in the plan's order

    @cached_property
    def cells(self) -> dict[str, tuple[dict[str, Any], Audit]]:
        """Name of the run folder -> (a value for each axis, the audit)."""
        found = {}
        for values in itertools.product(*self.axes.values()):
            point = dict(zip(self.axes, values, strict=True))
            audit = replace(self.base, **_options(point))
            name = _name(point, audit)
            found[name] = (point, replace(audit, out=self.base.out / name))
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
    out = grid.base.out
    _ours(out)
    dataset, wanted = _possible(grid)
    ahead = _seconds_ahead(grid, dataset, wanted, progress)
    out.mkdir(parents=True, exist_ok=True)
    with journal.one_writer(out):
        journal.write_json(out / "plan.json", _plan(grid, wanted, ahead))
        ahead_of = _Clock(sum(wanted.values()), ahead)
        for place, (name, (_, audit)) in enumerate(grid.cells.items(), 1):
            title = f"cell {place} of {len(grid.cells)}{ahead_of.said()}"
            had = len(journal.rows(audit.out / "journal.jsonl"))
            started = time.perf_counter()
            run_audit(audit, progress=partial(_told, progress, title))
            ahead_of.passed(wanted[name], wanted[name] - had, time.perf_counter() - started)
            after(audit.out)
            journal.write_json(out / "grid.json", summarised(grid))
    return summarised(grid)


def _told(progress: Progress, title: str, stage: str, done: int, of: int) -> None:
    progress(f"{title}: {stage}", done, of)


@dataclass
class _Clock:
    """How long the rest will take: by the estimate, until trials have been timed."""

    left: int  # trials
    estimate: float | None  # seconds for all of them
    fresh: int = 0  # trials that were run now, and not before
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.guess = None if self.estimate is None else self.estimate / self.left

    def passed(self, trials: int, fresh: int, seconds: float) -> None:
        """A cell is done."""
        self.left, self.fresh, self.seconds = (
            self.left - trials,
            self.fresh + fresh,
            self.seconds + seconds * (fresh > 0),
        )

    def said(self) -> str:
        """For a progress bar."""
        each = self.seconds / self.fresh if self.fresh else self.guess
        return "" if each is None else f", about {each * self.left / 60:.0f} min left"


def summarised(grid: Grid) -> dict[str, Any]:
    """grid.json: a point for each combination of values but the seeds, whose trials it pools; and every cell."""
    points: dict[str, dict[str, Any]] = {}
    held: dict[str, list[Any]] = {}
    cells = []
    versions, hardware, classes = {}, None, ()
    for name, (given, audit) in grid.cells.items():
        values = {axis: _listed(value) for axis, value in given.items()}
        if not (audit.out / "summary.json").is_file():
            cells.append({"folder": name, "finished": False, **values})
            continue
        found = json.loads((audit.out / "summary.json").read_bytes())
        classes = json.loads((audit.out / "plan.json").read_bytes())["data"]["classes"]
        versions, hardware = found["versions"], found["hardware"]
        fired = [check["name"] for check in found["checks"]]
        cells.append({"folder": name, "finished": True, **values, **{key: found[key] for key in KEPT}, "checks": fired})
        point = {axis: value for axis, value in values.items() if axis != POOLED}
        points[str(point)] = point
        held.setdefault(str(point), []).extend(journal.rows(audit.out / "journal.jsonl"))
    summed = [point | _kept(counted(held[key], classes)) for key, point in points.items()]
    return {
        "schema_version": SCHEMA_VERSION,
        "n": sum(len(rows) for rows in held.values()),
        "finished": all(cell["finished"] for cell in cells),
        "axes": {axis: [_listed(value) for value in values] for axis, values in grid.axes.items()},
        "points": summed,
        "cells": cells,
        "versions": versions,
        "hardware": hardware,
    }


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _kept(found: Any) -> dict[str, Any]:
    return {"n": found["n_trials"], **{key: found[key] for key in KEPT}}


def _possible(grid: Grid) -> tuple[DataSet, dict[str, int]]:
    """The data, and how many trials each cell has, by its name. Raises InputError with everything that is wrong."""
    complaints = dict[str, None]()
    wanted: dict[str, int] = {}
    for _, audit in grid.cells.values():
        _complaint(complaints, plan.validate, audit)
    _refuse(complaints)
    dataset = pipeline.loaded(grid.base)
    for name, (_, audit) in grid.cells.items():
        wanted[name] = _complaint(complaints, _drawn, audit, dataset) or 0
    _refuse(complaints)
    return dataset, wanted


def _refuse(complaints: Mapping[str, None]) -> None:
    if complaints:
        raise InputError("the plan cannot be run: " + "; ".join(complaints))


def _complaint(complaints: dict[str, None], check: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return check(*arguments)
    except InputError as error:
        complaints[str(error)] = None
        return None


def _drawn(audit: Audit, dataset: DataSet) -> int:
    turns = targets.turns(audit, dataset.classes)
    outside = targets.outside(audit, dataset)
    return len(targets.possible(audit, dataset, outside, turns))


def _seconds_ahead(grid: Grid, dataset: DataSet, wanted: Mapping[str, int], progress: Progress) -> float | None:
    """What crafting all cells will cost at most, from one pass through each network; None where none can be made."""
    told: dict[str, float | None] = {}
    total = 0.0
    for name, (_, audit) in grid.cells.items():
        if (audit.out / "summary.json").is_file():
            continue
        network = str([getattr(audit, key) for key in ("model", "weights", "view", "size", "device", "precision")])
        if network not in told:
            progress("a pass through each network, for the time ahead", len(told), len(grid.cells))
            told[network] = seconds_a_pass(audit, dataset)
        each = told[network]
        if each is None:
            return None
        total += each * audit.passes * audit.poisons * wanted[name] / audit.workers
    return total


def _plan(grid: Grid, wanted: Mapping[str, int], ahead: float | None) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "grid",
        "grid": {
            **{key: value for key, value in plan.identity(grid.base).items() if key not in _options(_first(grid))},
            "axes": {axis: [_listed(value) for value in values] for axis, values in grid.axes.items()},
        },
        "cells": [{"folder": name, "trials": wanted[name], **values} for name, (values, _) in grid.cells.items()],
        "seconds_estimated": None if ahead is None else round(ahead),
        "versions": pipeline.versions(),
    }


def _first(grid: Grid) -> dict[str, Any]:
    return {axis: values[0] for axis, values in grid.axes.items()}


def _ours(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; expected a folder, or a name not yet taken")
    if not out.exists() or not any(child.name != ".lock" for child in out.iterdir()):
        return
    try:
        kind = json.loads((out / "plan.json").read_bytes()).get("kind")
    except (OSError, ValueError, AttributeError):
        kind = None
    if kind != "grid":
        raise InputError(f"--out {out} is not empty and holds no grid; choose another folder")


def _options(point: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a value for each axis stands for."""
    options = dict(point)
    if PAIR in options:
        options["target_class"], options["base_class"] = options.pop(PAIR)
    return options


def _name(point: Mapping[str, Any], audit: Audit) -> str:
    """Of a cell's folder: its values for people, and a digest of all its options, so that a grid may grow."""
    said = "-".join(f"{axis}-{written(value)}" for axis, value in point.items())
    digest = hashlib.sha256(json.dumps(plan.identity(audit), sort_keys=True).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', said).strip('-')[:80]}-{digest}".lstrip("-.")


# --- the plan file


def load_grid(path: Path, given: Audit) -> Grid:
    """A plan file: TOML whose keys are the options of an audit; a list is an axis, `class_pair` the pair of classes.

    `given` says where (DATA, --out, --workers, ...) and goes before the file there. Raises InputError with
    every unknown key and impossible value.
    """
    try:
        held = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--plan {path} cannot be read ({error}); expected a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"--plan {path} is no TOML ({error})") from None
    _no_unknown(path, held)
    hints = get_type_hints(Audit)
    hints[PAIR] = tuple[str, str]
    axes: dict[str, list[Any]] = {}
    complaints = list[str]()
    for key, value in held.items():
        try:
            axes[key] = _values(hints[key], value)
        except ValueError as error:
            complaints.append(f"{key}: {error}")
    if complaints:
        raise InputError(f"{path}: " + "; ".join(complaints))
    return _grid(path, axes, given)


def _no_unknown(path: Path, held: Mapping[str, Any]) -> None:
    known = [*(field.name for field in fields(Audit)), PAIR]
    unknown = []
    for key in held:
        if key not in known:
            near = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
            unknown.append(f"{key!r} (nearest: {near[0]})" if near else f"{key!r}")
    if unknown:
        raise InputError(f"{path} has unknown keys: {', '.join(unknown)}; known are {', '.join(known)}")
    if PAIR in held and {"target_class", "base_class"} & set(held):
        raise InputError(f"{path} gives {PAIR} beside target_class or base_class; give one or the other")


def _grid(path: Path, axes: dict[str, list[Any]], given: Audit) -> Grid:
    default = {field.name: field.default for field in fields(Audit)}
    beside = [key for key, value in default.items() if key not in WHERE and getattr(given, key) != value]
    if beside:
        flag = beside[0].replace("_", "-")
        raise InputError(f"--{flag} stands beside --plan; write it into {path} as {beside[0]} = ...")
    several = [key for key, values in axes.items() if key in WHERE and len(values) > 1]
    if several:
        raise InputError(f"{path}: {several[0]} says where, not what, and cannot be a list")
    where = {key: one[0] for key, one in axes.items() if key in WHERE and getattr(given, key) in (None, default[key])}
    if not (given.data or "data" in where):
        raise InputError(f'DATA is missing: give it on the command line, or as data = "..." in {path}')
    fixed = {key: values[0] for key, values in axes.items() if key not in WHERE and len(values) == 1}
    varied = {key: values for key, values in axes.items() if key not in WHERE and len(values) > 1}
    return Grid(replace(given, **where, **_options(fixed)), varied)


def _values(hint: Any, value: Any) -> list[Any]:
    """The values of one key: one, or those of its list. Raises ValueError."""
    whole = get_origin(hint) is tuple
    if isinstance(value, list) and not (whole and all(isinstance(one, str) for one in value)):
        if not value:
            raise ValueError("an empty list; expected at least one value")
        found = [_value(hint, one) for one in value]
        if len({str(one) for one in found}) < len(found):
            raise ValueError("a value stands there twice")
        return found
    return [_value(hint, value)]


def _value(hint: Any, value: Any) -> Any:
    """As the option has it; a number may be a string such as "8/255", and none is "none"."""
    kinds = get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)
    if type(None) in kinds and str(value).lower() == "none":
        return None
    for kind in kinds:
        if get_origin(kind) is Literal and value in get_args(kind) and type(value) is str:
            return value
        if get_origin(kind) is tuple and isinstance(value, list) and all(isinstance(one, str) for one in value):
            if kind != tuple[str, str] or len(value) == 2:
                return tuple(value)
        elif kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
            return number(str(value))
        elif kind is Path and isinstance(value, str):
            return Path(value)
        elif kind in (bool, int, str) and type(value) is kind:
            return value
    raise ValueError(f"{value!r} is no value for it; expected {_expected(kinds)}")


def _expected(kinds: Sequence[Any]) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        Path: "a path as a string",
    }
    said = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            said += [repr(one) for one in get_args(kind)]
        elif get_origin(kind) is tuple:
            said.append('["TARGET CLASS", "BASE CLASS"]' if kind == tuple[str, str] else "a list of strings")
        else:
            said.append('"none"' if kind is type(None) else names[kind])
    return " or ".join(said)
