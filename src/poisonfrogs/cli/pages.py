"""The report, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from poisonfrogs.cli import say
from poisonfrogs.text import printable

SCHEMA_VERSION = 1


def report(run: Path, out: Path | None, form: str) -> int:
    """Write a run's page, say where it is, and return the exit code."""
    from poisonfrogs.report.page import write

    written = write(run, out)
    if form == "json":
        held = {"schema_version": SCHEMA_VERSION, "report": str(written.path), "bytes": written.bytes}
        say(json.dumps(held | {"sections": written.sections, "finished": written.finished}, indent=1))
    else:
        unfinished = "" if written.finished else "; the run is not finished, and the page shows what is there"
        say(printable(f"The report is {written.path} ({written.bytes / 1e6:.1f} MB){unfinished}"))
    return 0 if written.finished and written.examined else 3
