"""Run folders as the report meets them, and what its pages hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from poisonfrogs import journal
from poisonfrogs.report import page

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """A page as a browser without JavaScript reads it: its elements, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes what it did not open"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(run: Path) -> Page:
    """Write a run's page and read it."""
    return Page(page.write(run).path.read_text())


def copied(run: Path, to: Path) -> Path:
    return shutil.copytree(run, to, ignore=shutil.ignore_patterns("report.html", ".lock"))


def edited(
    run: Path,
    to: Path,
    rows: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda rows: rows,
    plan: Callable[[dict[str, Any]], object] = lambda plan: None,
) -> Path:
    """A copy of a run with another journal, another plan, and no summary."""
    copied(run, to)
    held = json.loads((to / "plan.json").read_text())
    plan(held)
    (to / "plan.json").write_text(json.dumps(held))
    kept = rows(journal.rows(to / "journal.jsonl"))
    (to / "journal.jsonl").write_bytes(b"".join(map(journal.encode, kept)))
    (to / "summary.json").unlink(missing_ok=True)
    return to


def many(run: Path, to: Path, count: int) -> Path:
    """A finished run of so many trials: those of a small one over and over, pictures and features shared."""
    from poisonfrogs.summary import counted

    held = journal.rows(run / "journal.jsonl")
    classes = json.loads((run / "plan.json").read_text())["data"]["classes"]

    def rows(_: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            held[i % len(held)]
            | {"trial_id": i, "group": i // len(held), "target_id": f"{held[i % len(held)]['target_id']}#{i}"}
            for i in range(count)
        ]

    def plan(plan: dict[str, Any]) -> None:
        plan["trials"] = [plan["trials"][i % len(held)] for i in range(count)]

    summary = json.loads((run / "summary.json").read_text())
    edited(run, to, rows, plan)
    (to / "summary.json").write_text(json.dumps(summary | counted(rows([]), classes)))
    for group in range(1, -(-count // len(held))):
        shutil.copy(to / "features/000000.safetensors", to / f"features/{group:06d}.safetensors")
    return to
