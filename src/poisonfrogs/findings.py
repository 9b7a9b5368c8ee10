"""What `match` found, as a run folder: plan.json, findings.json, and the pictures of what is suspicious."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from poisonfrogs import compare, data, journal, plan, tree
from poisonfrogs.images import Images, joined
from poisonfrogs.match import SUSPICIOUS, Finding, Matches, explained, match
from poisonfrogs.pictures import encode, mark_of
from poisonfrogs.progress import Progress
from poisonfrogs.types import InputError

SCHEMA_VERSION = 1
DRAWN = 200  # findings whose pictures are written, at most
_BEFORE_THE_PLAN = re.compile(  # what a run that was stopped may leave
    r"pictures(/\d{6,}-(picture|known|other|difference)\.png(\.partial)?)?|findings\.json(\.partial)?|plan\.json\.partial"
    r"|\.lock"
)
_LIMITS = {
    "rms": compare.LIMIT,
    "area_linf": compare.AREA,
    "blend_area_linf": compare.BLEND_AREA,
    "contrast": compare.CONTRAST,
    "gain": compare.GAIN,
}


def run(
    path: str, known_path: str, out: Path | None, *, progress: Progress = lambda stage, done, of: None
) -> dict[str, Any]:
    """Match the pictures at one path against those at another, and write a run folder where one is asked for.

    Returns what findings.json holds. Raises InputError for data that cannot be used and for a folder in use.
    """
    same = _same(path, known_path)
    if out is not None:
        _check_place(out, path, known_path)
    started = time.perf_counter()
    looked_at, skipped = data.pictures(path)
    known, unknown = (looked_at, {}) if same else data.pictures(known_path)
    with _held(out):
        found = match(looked_at, known, same=same, progress=progress)
        written = {
            "schema_version": SCHEMA_VERSION,
            "kind": "match",
            "data": {"path": path, "n": len(looked_at), "skipped": skipped},
            "known": {"path": known_path, "n": len(known), "skipped": unknown},
            "limits": _LIMITS,
            "versions": _versions(),
        }
        numbered = joined(known, looked_at)
        rows = [_row(finding, looked_at, numbered) for finding in found.findings]
        if out is not None:
            _draw(out, found, rows, looked_at, numbered)
        summary = _summary(found, rows, skipped, unknown) | {"seconds": round(time.perf_counter() - started, 1)}
        if out is not None:
            journal.write_json(out / "findings.json", summary)
            journal.write_json(out / "plan.json", written)  # last: a run that has one is whole
    return summary


def _same(path: str, known_path: str) -> bool:
    """Whether a set is compared with itself. Raises InputError for one that is a part of the known one."""
    if path == known_path or (Path(path).exists() and Path(path).resolve() == Path(known_path).resolve()):
        return True
    if Path(path).exists() and tree.within(Path(path), Path(known_path)):
        raise InputError(
            f"{path} lies in {known_path}: each of its pictures would be found identical to itself; "
            f"give --against the other parts, or match {known_path} against itself"
        )
    return False


@contextmanager
def _held(out: Path | None) -> Iterator[None]:
    """No other run writes into the folder meanwhile."""
    if out is None:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with journal.one_writer(out):
        if not _may_go_on(out):  # another run has ended since
            raise _taken(out)
        yield


def _taken(out: Path) -> InputError:
    if journal.kind_of(out) == "match" and not (out / "report.html").exists():
        return InputError(f"--out {out} holds a run that lacks its page only: poisonfrogs report {out} writes it")
    return InputError(f"--out {out} is there already; choose a name that is not yet taken")


def _check_place(out: Path, *read: str) -> None:
    if out.exists() and not (out.is_dir() and _may_go_on(out)):
        raise _taken(out)
    for path in read:
        plan.refuse_inside(Path(path), {"--out": out})


def _may_go_on(out: Path) -> bool:
    """Whether a folder is empty, or holds nothing but what a run that was stopped has written; links lead elsewhere."""
    names = (path.relative_to(out).as_posix() if not path.is_symlink() else "" for path in out.rglob("*"))
    return all(map(_BEFORE_THE_PLAN.fullmatch, names))


def _summary(
    found: Matches, rows: list[dict[str, Any]], skipped: dict[str, str], unknown: dict[str, str]
) -> dict[str, Any]:
    unreadable, unreadable_known = skipped | found.unreadable[0], unknown | found.unreadable[1]
    return {
        "schema_version": SCHEMA_VERSION,
        "n": found.looked_at,
        "n_known": found.known,
        "n_readable": found.readable[0],
        "n_known_readable": found.readable[1],
        "n_unreadable": len(unreadable) + len(unreadable_known),
        "counts": found.counts(),
        "unreadable": unreadable,
        "unreadable_known": unreadable_known,
        "findings": rows,
    }


def _row(finding: Finding, images: Images, numbered: Images) -> dict[str, Any]:
    return {
        "id": images.ids[finding.row],
        "known_id": numbered.ids[finding.known],
        "kind": finding.kind,
        "mirrored": finding.mirrored,
        "linf": round(finding.linf, 6),
        "rms": round(finding.rms, 6),
        "opacity": round(finding.opacity, 4) if finding.opacity is not None else None,
        "other_id": numbered.ids[finding.other] if finding.other is not None else None,
        "other_mirrored": finding.other_mirrored if finding.other is not None else None,
        "pictures": None,
    }


def _draw(out: Path, found: Matches, rows: list[dict[str, Any]], images: Images, numbered: Images) -> None:
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    suspicious = [i for i, finding in enumerate(found.findings) if finding.kind in SUSPICIOUS]
    for i in suspicious[:DRAWN]:
        finding = found.findings[i]
        drawn = {"picture": _stored(images, finding.row), "known": _stored(numbered, finding.known)}
        if finding.other is not None:
            drawn["other"] = _stored(numbered, finding.other)
        difference, rows[i]["magnified"] = magnified(explained(finding, images, numbered).difference)
        drawn["difference"] = encode(np.asarray(difference), mark=None)
        rows[i]["pictures"] = {name: f"pictures/{finding.row:06d}-{name}.png" for name in drawn}
        for name, content in drawn.items():
            journal.write_bytes(out / rows[i]["pictures"][name], content)


def _stored(images: Images, row: int) -> bytes:
    """A picture as PNG; what was crafted goes on saying so."""
    content = images.source.read(int(images.rows[row]))
    return encode(np.asarray(images[row]), mark=mark_of(content) if isinstance(content, bytes) else None)


def magnified(difference: np.ndarray) -> tuple[Image.Image, float]:
    """A difference around grey, magnified until its largest value is white or black; and how often.

    >>> magnified(np.full((1, 1, 3), 0.1))[0].getpixel((0, 0)), magnified(np.full((1, 1, 3), 0.1))[1]
    ((255, 255, 255), 5.0)
    """
    times = round(0.5 / max(float(np.abs(difference).max()), 1 / 510), 2)
    grey = np.rint(255 * np.clip(0.5 + times * difference, 0, 1)).astype(np.uint8)
    return Image.fromarray(grey), times


def _versions() -> dict[str, str]:
    names = ("poisonfrogs", "numpy", "pillow")
    found = {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}
    try:
        return found | {"faiss-cpu": metadata.version("faiss-cpu")}
    except metadata.PackageNotFoundError:
        return found
