"""Signed folders as tests give them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from poisonfrogs import pair, signing
from poisonfrogs.cli import main


@dataclass(frozen=True)
class Signed:
    """A folder with two classes of three files each, its manifest and its signature beside it, and the keys."""

    data: Path
    key: Path
    public: Path

    @property
    def manifest(self) -> Path:
        return self.data.with_name(self.data.name + ".manifest.jsonl")

    @property
    def signature(self) -> Path:
        return pair.signature_of(self.manifest)


def make(folder: Path) -> Signed:
    for label in ("cat", "dog"):
        (folder / "data" / label).mkdir(parents=True)
        for number in range(3):
            (folder / "data" / label / f"{number}.png").write_bytes(f"{label} {number}".encode() * (number + 1))
    made = Signed(folder / "data", folder / "key", signing.generate(folder / "key"))
    assert main(["sign", str(made.data), "--key", str(made.key)]) == 0
    return made


def verified(one: Signed, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    """The exit code of verify, and what it says as JSON."""
    capsys.readouterr()
    code = main(["verify", str(one.data), "--key", str(one.public), "--format", "json", *more])
    return code, json.loads(capsys.readouterr().out)


def told(found: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    return [(one["kind"], one["path"], one["was"]) for one in found["differences"]]
