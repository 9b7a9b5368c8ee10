"""A run folder as the report sees it: files only, read-only, checked."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load

from poisonfrogs import journal
from poisonfrogs.match import SUSPICIOUS
from poisonfrogs.pictures import Unreadable, decode
from poisonfrogs.plan import WHERE, Audit
from poisonfrogs.summary import counted
from poisonfrogs.types import InputError

STATES = {  # in the order they are shown
    "fell": "fell",
    "stood": "stood",
    "failed": "could not be crafted",
    "ineligible": "wrong without the poison",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A line of the journal. Lists have an item a poison; probabilities one a class."""

    trial_id: int
    group: int
    target_id: str
    target_class: str
    target_file: str
    base_class: str
    base_ids: list[str]
    base_files: list[str]
    poison_files: list[str]
    linf: list[float]
    linf_from_base: list[float]
    ssim: list[float | None]
    distance_before: list[float]
    distance_after: list[float]
    probabilities: list[float]
    control_probabilities: list[float]
    accuracy: float
    control_accuracy: float
    watermark_only_success: bool | None
    as_jpeg_success: bool | None
    rotation_degrees: float | None
    passes: int
    eligible: bool
    success: bool
    failed: bool
    failure: str | None
    auditor: dict[str, list[list[float]]] | None
    evasions: list[dict[str, Any]]
    # where every layer is trained, an angle an epoch: of the boundary; of each layer of each victim
    boundary_rotation: list[float] | None = None
    layer_rotation: dict[str, dict[str, list[float]]] | None = None
    base: int  # number of the base class
    target: int  # number of the target's class

    @property
    def state(self) -> str:
        """One of STATES."""
        if self.failed:
            return "failed"
        if not self.eligible:
            return "ineligible"
        return "fell" if self.success else "stood"

    @property
    def before(self) -> float:
        """Confidence in the base class without the poison."""
        return self.control_probabilities[self.base]

    @property
    def after(self) -> float:
        """Confidence in the base class with the poison."""
        return self.probabilities[self.base]


def first_to_last(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """What matters first: those that fell, the surest first; then the nearest misses; then what says nothing."""
    order = list(STATES)
    return sorted(outcomes, key=lambda one: (order.index(one.state), -one.after, one.trial_id))


@dataclass(frozen=True, eq=False)
class Folder:
    """Any run's folder. Nothing is written, and nothing outside it is read."""

    path: Path
    plan: Mapping[str, Any]

    def content(self, file: str) -> bytes | None:
        """The bytes of a file of the run; None where it is not there."""
        path = (self.path / file).resolve()
        if not path.is_relative_to(self.path.resolve()) or not path.is_file():
            return None
        return path.read_bytes()

    @cached_property
    def picture(self) -> Callable[[str], Image.Image | None]:
        """A picture of the run by its file; None where it is not there or cannot be read. The last few are kept."""
        return lru_cache(maxsize=4)(self._picture)

    def _picture(self, file: str) -> Image.Image | None:
        content = self.content(file)
        try:
            return None if content is None else decode(content).image
        except Unreadable:
            return None

    def digest(self, file: str) -> str | None:
        """SHA-256 of a file of the run."""
        content = self.content(file)
        return None if content is None else hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, eq=False)
class RunFolder(Folder):
    """An audit's folder."""

    rows: Sequence[journal.Row]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.plan["data"]["classes"])

    @cached_property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(self._outcome(row) for row in self.rows)

    @cached_property
    def planned(self) -> int:
        """How many trials were to be run."""
        return len(self.plan["trials"])

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """summary.json of a finished run."""
        path = self.path / "summary.json"
        return read_json(path) if path.exists() and len(self.rows) == self.planned else None

    @cached_property
    def figures(self) -> dict[str, Any]:
        """What the rows come to: summary.json, or the same of an unfinished journal."""
        return {"certified": None, **counted(self.rows, self.classes), **(self.summary or {})}

    @property
    def finished(self) -> bool:
        """Whether every trial that was planned was run, and summed up."""
        return self.summary is not None

    @property
    def examined(self) -> bool:
        """Whether the run found anything out."""
        return bool(self.figures["n_eligible"]) and bool(self.figures["n_failed_trials"] < self.figures["n_trials"])

    def said(self, probabilities: Sequence[float]) -> tuple[str, float]:
        """The class of the highest probability, and that probability."""
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        return self.classes[best], probabilities[best]

    @cached_property
    def states(self) -> Counter[str]:
        return Counter(outcome.state for outcome in self.outcomes)

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """features/NAME.safetensors; empty where it is not there. Raises InputError for a broken one."""
        content = self.content(f"features/{name}.safetensors")
        try:
            return {} if content is None else load(content)
        except SafetensorError as error:
            raise InputError(f"{self.path}/features/{name}.safetensors cannot be read ({error})") from None

    def _outcome(self, row: journal.Row) -> Outcome:
        known = {field.name for field in fields(Outcome)}
        held = {name: value for name, value in row.items() if name in known}
        try:
            held |= {kind: self.classes.index(row[f"{kind}_class"]) for kind in ("base", "target")}
            return _checked(Outcome(**held), len(self.classes))
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"{self.path}/journal.jsonl has a line that this version of poisonfrogs cannot read ({error}); "
                "run the audit again, or use the version that wrote it"
            ) from None


@dataclass(frozen=True, eq=False)
class CertifyFolder(Folder):
    """The folder of a run of certify."""

    summary: Mapping[str, Any]
    curves: Sequence[Mapping[str, Any]]
    finished = True  # summary.json is written last
    examined = True


@dataclass(frozen=True, eq=False)
class MatchFolder(Folder):
    """The folder of a run of match."""

    found: Mapping[str, Any]  # findings.json
    finished = True  # plan.json is written last

    @property
    def examined(self) -> bool:
        return bool(self.found["n_readable"] and self.found["n_known_readable"])

    @property
    def suspicious(self) -> list[dict[str, Any]]:
        """Changed copies, those with pictures first."""
        rows = [row for row in self.found["findings"] if row["kind"] in SUSPICIOUS]
        return sorted(rows, key=lambda row: row["pictures"] is None)


@dataclass(frozen=True, eq=False)
class GridFolder(Folder):
    """The folder of a grid of audits."""

    found: Mapping[str, Any]  # grid.json

    @property
    def finished(self) -> bool:
        return bool(self.found["finished"])

    @property
    def examined(self) -> bool:
        return bool(self.points) and all(point["n_eligible"] for point in self.points)

    @property
    def points(self) -> list[dict[str, Any]]:
        return list(self.found["points"])


def open_grid(path: Path, plan: dict[str, Any]) -> GridFolder:
    """Raises InputError for a grid without a finished cell, or a changed one."""
    if not (path / "grid.json").is_file():
        raise InputError(f"{path} holds a grid none of whose cells is done; the same command goes on")
    _require(path / "plan.json", plan, {"grid": ("axes",), "cells": (), "versions": ()})
    found = read_json(path / "grid.json")
    needed = ("n", "finished", "axes", "points", "cells", "versions", "hardware")
    _require(path / "grid.json", found, dict.fromkeys(needed, ()))
    return GridFolder(path, plan, found)


def open_match(path: Path, plan: dict[str, Any]) -> MatchFolder:
    """Raises InputError for a changed run."""
    if not (path / "findings.json").is_file():
        raise InputError(f"{path}/findings.json is not there; was the run folder changed?")
    found = read_json(path / "findings.json")
    needed = ("n", "n_known", "n_readable", "n_known_readable", "n_unreadable", "counts", "findings")
    _require(path / "findings.json", found, dict.fromkeys(needed, ()))
    _require_each(path / "findings.json", found["findings"], ("id", "known_id", "kind", "linf", "rms", "pictures"))
    return MatchFolder(path, plan, found)


def open_certify(path: Path, plan: dict[str, Any]) -> CertifyFolder:
    """Raises InputError for an unfinished or a changed run."""
    if not (path / "summary.json").is_file():
        raise InputError(f"{path} holds an unfinished run of certify; the same command makes it whole")
    _require(path / "plan.json", plan, {"certify": ("model", "against", "trusted"), "data": ("fingerprint",)})
    summary = read_json(path / "summary.json")
    held = dict.fromkeys(("against", "chosen", "model", "seed", "versions", "hardware", "undefended_accuracy"), ())
    _require(path / "summary.json", summary, {**held, "frontier": ()})
    heads = [summary.get("recommended"), *summary["frontier"]]
    needed = ("family", "parameters", "accuracy", "accuracy_ci95", "median_radius", "certified", "certified_ci95")
    _require_each(path / "summary.json", heads, needed)
    try:
        curves = json.loads(journal.read(path / "curves.json"))
        return CertifyFolder(path, plan, summary, list(curves))
    except (OSError, ValueError, TypeError, RecursionError):
        raise InputError(f"{path}/curves.json cannot be read; was the run folder changed?") from None


def _checked(one: Outcome, classes: int) -> Outcome:
    poisons: list[Sequence[object]] = [
        one.base_ids,
        one.base_files,
        one.linf,
        one.ssim,
        one.distance_before,
        one.distance_after,
    ]
    if not one.poison_files or any(len(values) != len(one.poison_files) for values in poisons):
        raise ValueError("not as many values as poisons")
    if {len(one.probabilities), len(one.control_probabilities)} != {classes}:
        raise ValueError("not as many probabilities as classes")
    return one


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError."""
    try:
        held = json.loads(journal.read(path))
    except (ValueError, RecursionError):
        held = None
    if not isinstance(held, dict):
        raise InputError(f"{path} is no JSON object; was the run folder changed?")
    return held


def read_plan(path: Path) -> dict[str, Any]:
    """plan.json of a run folder. Raises InputError where there is none."""
    if not path.is_dir():
        raise InputError(f"{path} is no run folder; expected the folder that --out named, such as runs/demo")
    if not (path / "plan.json").is_file():
        raise InputError(f"{path} holds no run (plan.json is not there); expected the folder that --out named")
    return read_json(path / "plan.json")


def _require(path: Path, held: Mapping[str, Any], needed: Mapping[str, Sequence[str]]) -> None:
    for name, inside in needed.items():
        missing = [key for key in inside if key not in held[name]] if name in held else [name]
        if missing:
            raise InputError(f"{path} lacks {name} ({', '.join(missing)}); was it changed?")


def _require_each(path: Path, held: Any, needed: Sequence[str]) -> None:
    for one in held if isinstance(held, list) else [held]:
        missing = [key for key in needed if key not in one] if isinstance(one, dict) else needed
        if missing:
            raise InputError(f"{path} lacks {', '.join(missing)} in what it lists; was it changed?")


NEEDED: dict[str, Sequence[str]] = {  # of plan.json
    "audit": [field.name for field in fields(Audit) if field.name not in WHERE],
    "data": ("classes", "fingerprint", "n_test"),
    "model": ("name", "weights"),
    "trials": (),
    "versions": (),
}


def retrained(run: RunFolder) -> bool:
    """Whether the victims trained every layer."""
    return bool(run.plan["audit"]["context"] != "transfer")


def open_audit(path: Path, plan: dict[str, Any]) -> RunFolder:
    """The folder of an audit, finished or interrupted. Raises InputError."""
    _require(path / "plan.json", plan, NEEDED)
    run = RunFolder(path, plan, journal.rows(path / "journal.jsonl"))
    _ = run.outcomes, run.figures  # what cannot be read is said before the page is begun
    return run
