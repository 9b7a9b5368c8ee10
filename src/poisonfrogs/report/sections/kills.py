"""One-shot kills: what each trial looks like, and what the classifier says with and without the poison."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from poisonfrogs.report import embed
from poisonfrogs.report.folder import STATES, Outcome, RunFolder, first_to_last
from poisonfrogs.report.html import Section, render
from poisonfrogs.text import counted

CARDS = 1000  # trials that are shown, at most


@dataclass(frozen=True)
class Card:
    """A trial, as it is shown."""

    outcome: Outcome
    state: str  # in words
    panel: embed.Panel
    without: tuple[str, float]  # class and confidence
    with_poison: tuple[str, float]
    auditor: tuple[str, float] | None  # what it calls the poison shown
    distance: float  # of the nearest poison
    ssim: float | None  # of the most changed poison


def section(run: RunFolder) -> Section:
    """The second section."""
    outcomes = _chosen(run)
    cards = [_card(run, one, panel) for one, panel in zip(outcomes, embed.panels(run, outcomes), strict=True)]
    body = render(
        "kills.html",
        cards=cards,
        k=embed.magnification(run),
        states={name: words for name, words in STATES.items() if run.states[name]},
        counts=Counter(card.outcome.state for card in cards),
        left_out=len(run.outcomes) - len(cards),
        auditor=run.plan.get("auditor"),
        shown=counted(len(cards), "trial"),
        poisons=run.plan["audit"]["poisons"],
        reduced=sum(not (card.panel.poison and card.panel.poison.whole) for card in cards),
    )
    return Section("kills", "One-shot kills" if run.plan["audit"]["poisons"] == 1 else "Kills", body)


def _chosen(run: RunFolder) -> list[Outcome]:
    """All trials, what matters first; of very many the first that fell, and a fifth of the room for the others."""
    ordered = first_to_last(run.outcomes)
    fell = [one for one in ordered if one.state == "fell"]
    others = ordered[len(fell) :]
    room = max(CARDS - len(others), CARDS * 4 // 5)
    return fell[:room] + others[: CARDS - min(len(fell), room)]


def _card(run: RunFolder, outcome: Outcome, panel: embed.Panel) -> Card:
    return Card(
        outcome=outcome,
        state=STATES[outcome.state],
        panel=panel,
        without=run.said(outcome.control_probabilities),
        with_poison=run.said(outcome.probabilities),
        auditor=run.said(outcome.auditor["poisons"][0]) if outcome.auditor else None,
        distance=min(outcome.distance_after),
        ssim=min((value for value in outcome.ssim if value is not None), default=None),
    )
