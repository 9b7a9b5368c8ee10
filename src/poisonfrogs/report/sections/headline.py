"""What was found, what to do about it, and what it does not mean."""

from __future__ import annotations

from typing import Any

from poisonfrogs.report.folder import RunFolder, retrained
from poisonfrogs.report.html import Section, render
from poisonfrogs.text import counted, levels, percent


def section(run: RunFolder) -> Section:
    """The first section: for a reader who reads one."""
    audit = run.plan["audit"]
    body = render(
        "headline.html",
        run=run,
        f=run.figures,
        audit=audit,
        retrained=retrained(run),
        wrong=sum(not outcome.eligible for outcome in run.outcomes),
        poisons=poisons(run),
        pair=_pair(run),
        budget=_budget(audit),
    )
    return Section("result", "The result", body)


def _budget(audit: dict[str, Any]) -> str:
    """How far a poison may go, and from what."""
    eps, opacity = audit["eps"], audit["watermark"]
    bound = "the paper's penalty on the distance" if eps is None else f"l-inf at most {levels(eps)}"
    return f"{bound}, from bases with {percent(opacity)} of the target blended in" if opacity else bound


def poisons(run: RunFolder) -> str:
    """What was put into the training set for each target, in words."""
    many = run.plan["audit"]["poisons"]
    return "one correctly labelled picture" if many == 1 else counted(many, "correctly labelled picture")


def _pair(run: RunFolder) -> tuple[str, str] | None:
    """(class of the targets, class of the bases), where the run has one pair only."""
    pairs = {(one["target_class"], one["base_class"]) for one in run.plan["trials"]}
    if len(pairs) != 1:
        return None
    target, base = pairs.pop()
    return run.classes[target], run.classes[base]
