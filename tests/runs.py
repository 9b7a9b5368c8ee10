"""Audits of the toy data as tests give them, and what they leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from poisonfrogs import journal
from poisonfrogs.plan import FOLDERS, Audit


def rows_of(audit: Audit) -> list[journal.Row]:
    """The journal of an audit, a row a trial."""
    return journal.rows(audit.out / "journal.jsonl")


def whole(data: Path, cache: Path, out: Path, model: str = "toy:factory") -> Audit:
    """All 40 targets, three groups: what broken-off runs and those of several workers are compared with."""
    return Audit(
        data=data, model=model, out=out, cache=cache, threads=1, passes=3, head="logistic:1", precision="fp32",
        targets="all",
    )  # fmt: skip


def arguments(audit: Audit) -> list[str]:
    """The same as whoever types it gives it to `poisonfrogs audit`."""
    given = [str(audit.data), "--model", audit.model, "--out", str(audit.out), "--cache", str(audit.cache)]
    given += ["--threads", "1", "--passes", "3", "--head", "logistic:1", "--precision", "fp32", "--targets", "all"]
    return given


def kept(out: Path) -> dict[str, bytes]:
    """What has to be the same bytes, however a run was interrupted."""
    files = [path for name in FOLDERS for path in sorted((out / name).iterdir())]
    return {
        str(path.relative_to(out)): path.read_bytes() for path in [out / "journal.jsonl", out / "plan.json", *files]
    }


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
