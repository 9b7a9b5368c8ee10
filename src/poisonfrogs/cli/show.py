"""How results are printed: data on stdout, progress on stderr and only on a terminal."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from poisonfrogs import text
from poisonfrogs.cli import say
from poisonfrogs.plan import Audit
from poisonfrogs.text import counted, percent, printable, written
from poisonfrogs.types import Summary


def audit(options: Audit, fail_on: float | None, form: str) -> int:
    """Run an audit, print what it found, and return the exit code."""
    with progress() as tell:
        tell("starting", 0, 1)
        from poisonfrogs.audit import run_audit  # torch takes seconds to import

        summary = run_audit(options, progress=tell)
        tell("report", 0, 1)
        from poisonfrogs.report.page import write

        write(options.out)
    printed(form, summary, report(options, summary))
    if summary["certified"] and summary["certified"]["n_broken"]:
        return 3
    if summary["success_rate"] is None or summary["n_failed_trials"] == summary["n_trials"]:
        return 3  # nothing was examined
    return int(fail_on is not None and summary["ci95"][0] >= fail_on)


def grid(plan: Path, where: dict[str, Any], fail_on: float | None, form: str) -> int:
    """Run the audits of a plan file, print their points, and return the exit code. `where`: see grid.load_grid."""
    with progress() as tell:
        tell("starting", 0, 1)
        from poisonfrogs.grid import load_grid, run_grid
        from poisonfrogs.report.page import write

        wanted = load_grid(plan, **where)
        found = run_grid(wanted, progress=tell, after=lambda cell: write(cell))
        write(wanted.out)
    printed(form, found, points(wanted.out, found))
    if any(point["success_rate"] is None or point["n_failed_trials"] == point["n"] for point in found["points"]):
        return 3  # of a point nothing was examined
    if any("broken_certificate" in cell.get("checks", ()) for cell in found["cells"]):
        return 3
    return int(fail_on is not None and any(point["ci95"][0] >= fail_on for point in found["points"]))


def points(out: Path, found: dict[str, Any]) -> list[str]:
    """A line a point, for people."""
    axes = [axis for axis in found["axes"] if axis != "seed"]
    lines = [f"{'fell':>12}{'rate':>9}  {'95 % interval':<18}{'watermark only':>15}{'control':>9}  {' · '.join(axes)}"]
    for point in found["points"]:
        where = " · ".join(written(point[axis]) for axis in axes)
        fell = f"{point['n_success']} of {point['n_eligible']}"
        ends = " to ".join(percent(end) for end in point["ci95"])
        lines.append(
            f"{fell:>12}{percent(point['success_rate']):>9}  {ends:<18}"
            f"{percent(point['watermark_only_rate']):>15}{percent(point['control_rate']):>9}  {where}"
        )
    fired = sum(bool(cell["checks"]) for cell in found["cells"])
    noted = [f"checks fired in {fired} of {counted(len(found['cells']), 'cell')}: see their pages"] if fired else []
    return [*lines, *noted, f"The page to read is {out}/report.html; each cell has its own beside it"]


def printed(form: str, found: object, lines: Iterable[str]) -> None:
    """What was found, on stdout: as JSON, or in lines for people."""
    for line in [json.dumps(found, indent=1)] if form == "json" else map(printable, lines):
        say(line)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar a stage, on stderr where that is a terminal; silent elsewhere.

    What the user's own code prints meanwhile goes to stderr as well, and so does what it starts: stdout is the
    result's.
    """
    with _descriptor_aside(), redirect_stdout(sys.stderr), _bars() as tell:
        yield tell


@contextmanager
def _descriptor_aside() -> Iterator[None]:
    """stdout's descriptor, which is all that processes and libraries in C know of it, leads to stderr meanwhile."""
    if sys.__stdout__ is None or sys.__stderr__ is None:  # closed: their numbers may be other files'
        yield
        return
    sys.__stdout__.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        with suppress(OSError):  # nobody may be there to read it
            sys.__stdout__.flush()
        ctypes.CDLL(None).fflush(None)  # what C has printed and keeps for later
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    if not sys.stderr.isatty():
        yield lambda stage, done, of: None
        return
    from rich.console import Console  # here: it takes longer to import than small folders to verify
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, of: int) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    bars.remove_task(task)
                tasks.clear()
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=of)

        yield tell


def report(options: Audit, summary: Summary) -> list[str]:
    """The lines that are printed for people."""
    return [
        *(f"{name:<14}{value}" for name, value in _figures(summary)),
        *(f"check {check['name']}: {check['message']}" for check in summary["checks"]),
        sentence(options, summary),
        *defended(summary),
        f"The page to read is {options.out}/report.html; the run, with every poison, is in {options.out}",
    ]


def _dropped(summary: Summary) -> str:
    mean, worst = summary["mean_accuracy_drop"], summary["worst_accuracy_drop"]
    if mean is None or worst is None:
        return "every trial failed"
    mean, worst = (round(drop, 4) + 0.0 for drop in (mean, worst))  # what rounds to nothing has no sign
    return f"changed by {text.points(-mean)} points on average, {text.points(-worst)} points at worst"


def _moved(summary: Summary) -> str:
    """How far poisons are from what crafting began with, and from the pictures that an auditor knows."""
    crafted, marked = (255 * (summary[key] or 0) for key in ("median_linf", "median_linf_from_base"))
    said = f"median l-inf {crafted:.1f}/255 as stored"
    return said if crafted == marked else f"{said}, {marked:.1f}/255 from the base without its watermark"


def _figures(summary: Summary) -> list[tuple[str, str]]:
    low, high = summary["ci95"]
    rate = summary["success_rate"]
    return [
        (
            "success",
            f"{summary['n_success']} of {summary['n_eligible']} eligible targets ({summary['n_trials']} drawn)",
        ),
        (
            "rate",
            "none: no target was eligible" if rate is None else f"{rate:.1%}, 95 % interval {low:.1%} to {high:.1%}",
        ),
        ("control", f"{summary['control_rate'] or 0:.1%} of {summary['n_trials']} wrong without the poison"),
        (
            "confidence",
            "none: no target was eligible"
            if summary["median_confidence"] is None
            else f"median {summary['median_confidence']:.4f}, control {summary['control_median_confidence']:.4f}",
        ),
        ("accuracy", f"{summary['clean_accuracy']:.2%} clean; {_dropped(summary)}"),
        *_beside(summary),
        ("perturbation", _moved(summary)),
        ("cost", f"median {summary['median_passes']:.0f} passes, {summary['seconds_per_trial']:.2f} s a trial"),
        ("weights", summary["model"]["source"]),
    ]


def _beside(summary: Summary) -> list[tuple[str, str]]:
    """What stands beside the poisons: the same as JPEG, the watermarked bases alone, and the network that they were
    made with.
    """
    found = []
    if summary["as_jpeg_ci95"]:
        low, high = summary["as_jpeg_ci95"]
        count = f"{summary['n_as_jpeg_success']} of {summary['n_as_jpeg']}"
        within = f"95 % interval {low:.1%} to {high:.1%}"
        found.append(("as JPEG", f"{count} fell to the poisons stored as their bases are, {within}"))
    ends, clean = summary["watermark_only_ci95"], summary["clean_network"]
    if ends:
        rate = summary["watermark_only_rate"] or 0
        within = f"95 % interval {ends[0]:.1%} to {ends[1]:.1%}"
        found.append(("watermark", f"{rate:.1%} fell with it alone, {within}"))
    if clean:
        fitted = f"training loss {clean['training_loss']:.4f}, test accuracy {clean['test_accuracy']:.2%}"
        found.append(("clean network", fitted))
    return found


def defended(summary: Summary) -> list[str]:
    """The same for the certified head beside the usual one."""
    found = summary["certified"]
    if not found:
        return []
    shares = [f"{share:.1%} against {counted(int(r), 'operation')}" for r, share in found["certified"].items()]
    return [
        f"Under the certified head ({found['family']}, accuracy {found['accuracy']:.2%}) {found['n_success']} of "
        f"{found['n_eligible']} fell, and {found['n_perfect_success']} to perfect collisions; "
        f"proved of the test pictures: {', '.join(shares)}."
    ]


def sentence(options: Audit, summary: Summary) -> str:
    """What was found, for someone who reads one sentence."""
    poisons = "one correctly labelled poison each" if options.poisons == 1 else f"{options.poisons} poisons each"
    pair = (
        f" ({options.target_class} taken for {options.base_class})"
        if options.target_class and options.base_class
        else ""
    )
    wrong = round((summary["control_rate"] or 0) * summary["n_trials"])
    return (
        f"{summary['n_success']} of {summary['n_eligible']} targets fell to {poisons}{pair}; "
        f"without the poison {wrong} of {summary['n_trials']} were wrong."
    )
