"""The page: which kinds of run have which sections, and how they become one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from jinja2 import UndefinedError
from markupsafe import Markup

from poisonfrogs import journal
from poisonfrogs.report.folder import open_audit, open_certify, open_grid, open_match, read_plan
from poisonfrogs.report.html import Section, render
from poisonfrogs.report.sections import (
    arms,
    copies,
    explained,
    guarantee,
    headline,
    kills,
    numbers,
    points,
    reproduce,
    space,
    turns,
)
from poisonfrogs.types import InputError


class Run(Protocol):
    """What the page itself asks of a run; the rest is between the run and its sections."""

    plan: Mapping[str, Any]

    @property
    def finished(self) -> bool: ...

    @property
    def examined(self) -> bool: ...


@dataclass(frozen=True)
class Kind:
    """A kind of run, as plan.json names it."""

    title: str
    schema_version: int
    open: Callable[[Path, dict[str, Any]], Any]  # (folder, plan) -> what the sections take
    sections: Sequence[Callable[[Any], Section | None]]  # in the order they are read; None leaves one out


KINDS = {
    "audit": Kind(
        title="How easily can this training data be poisoned?",
        schema_version=1,
        open=open_audit,
        sections=[
            headline.section,
            arms.section,
            kills.section,
            numbers.section,
            space.section,
            turns.section,
            explained.section,
            reproduce.section,
        ],
    ),
    "certify": Kind(
        title="How many training pictures would it take to change an answer?",
        schema_version=1,
        open=open_certify,
        sections=[guarantee.result, guarantee.frontier, guarantee.reproduce],
    ),
    "grid": Kind(
        title="How does success depend on what the attacker can do?",
        schema_version=1,
        open=open_grid,
        sections=[points.result, points.curves, points.fit, points.cells, points.reproduce],
    ),
    "match": Kind(
        title="Which pictures are changed copies of known ones?",
        schema_version=1,
        open=open_match,
        sections=[copies.result, copies.copies, copies.reproduce],
    ),
}


# what sections raise where a file of the run holds other values than a run writes
_CHANGED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, UndefinedError, ValueError)


@dataclass(frozen=True)
class Written:
    """A page that was written."""

    path: Path
    bytes: int
    sections: tuple[str, ...]
    finished: bool  # the run; of an interrupted one the page shows what is there
    examined: bool  # whether the run found anything out


def write(folder: str | Path, out: str | Path | None = None) -> Written:
    """Write the page of a run folder, RUN/report.html unless told otherwise.

    Raises InputError for what is no run folder, an unknown kind, an unknown schema version, and a file at `out` that
    is no page.
    """
    folder = Path(folder)
    path = Path(out or folder / "report.html")
    if out and not path.parent.is_dir():
        raise InputError(f"--out {out} lies in no folder that is there; make {path.parent}, or choose another place")
    if path.exists() and not journal.is_page(path):
        raise InputError(f"{path} is there already, and is no page; choose another place with --out")
    try:
        kind, opened_run = opened(folder)
        run: Run = opened_run
        sections = [section for section in (make(opened_run) for make in kind.sections) if section]
        content = render(
            "page.html",
            title=kind.title,
            sections=sections,
            css=static("page.css"),
            js=static("page.js"),
            version=run.plan.get("versions", {}).get("poisonfrogs", ""),
        ).encode()
        finished, examined = run.finished, run.examined
    except _CHANGED as error:
        raise InputError(
            f"{folder} is not as a run of this version left it ({type(error).__name__}: {error}); was it changed?"
        ) from error
    journal.write_bytes(path, content)
    return Written(
        path=path,
        bytes=len(content),
        sections=tuple(section.anchor for section in sections),
        finished=finished,
        examined=examined,
    )


def opened(folder: Path) -> tuple[Kind, Any]:
    """The run in a folder, and its kind. Raises InputError."""
    plan = read_plan(folder)
    name, version = plan.get("kind"), plan.get("schema_version")
    kind = KINDS.get(str(name))
    if kind is None:
        raise InputError(f"{folder}/plan.json is of kind {name!r}; this version reports {', '.join(sorted(KINDS))}")
    if version != kind.schema_version:
        raise InputError(
            f"{folder}/plan.json has schema version {version!r}; this version of poisonfrogs reads "
            f"{kind.schema_version}; make the report with the version that wrote the run"
        )
    return kind, kind.open(folder, plan)


def static(name: str) -> Markup:
    """A file of `static/`."""
    return Markup((resources.files("poisonfrogs.report") / "static" / name).read_text("utf-8"))
