"""Audits of the toy data as tests give them, and what they leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from poisonfrogs import journal
from poisonfrogs.plan import Audit


def rows_of(audit: Audit) -> list[journal.Row]:
    """The journal of an audit, a row a trial."""
    return journal.rows(audit.out / "journal.jsonl")


def command(cache: Path, *more: str) -> list[str]:
    given = f"audit toy --model toy:factory --out run --cache {cache} --threads 1 --targets 8"
    return [*given.split(), *more]


def quick(cache: Path, *more: str) -> list[str]:
    """A whole audit in a tenth of a second."""
    return command(cache, "--passes", "2", "--head", "logistic:1", "--targets", "all", *more)


def on_disk(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content; folders as None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


def refused(capsys: pytest.CaptureFixture[str], *fragments: str) -> None:
    """One line on stderr with all of it, nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("poisonfrogs: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    for fragment in fragments:
        assert fragment in err
