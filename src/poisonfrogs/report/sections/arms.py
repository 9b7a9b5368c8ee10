"""How much of the success is the collision's: the three victims of a trial that trains every layer, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from poisonfrogs.report.figures import Figure, Table, rate_bars
from poisonfrogs.report.folder import RunFolder, retrained
from poisonfrogs.report.html import Section, render
from poisonfrogs.stats import wilson
from poisonfrogs.text import interval, percent

Arm = tuple[str, int, int]  # (name, targets taken for the base class, targets asked about)


def section(run: RunFolder) -> Section | None:
    """None where the last layer alone is trained: there the control has the bases in the poisons' places."""
    if not retrained(run):
        return None
    body = render(
        "arms.html",
        figure=_figure(arms(run)) if run.outcomes else None,
        clean=run.plan.get("clean_network"),
        audit=run.plan["audit"],
    )
    return Section("arms", "How much of it is the collision's?", body)


def arms(run: RunFolder) -> list[Arm]:
    """The control over all targets drawn, the others over those that it gets right."""
    taken = sum(run.said(one.control_probabilities)[0] == one.base_class for one in run.outcomes)
    eligible = [one for one in run.outcomes if one.eligible]
    marked = [one for one in eligible if one.watermark_only_success is not None]
    found = [("clean control: nothing added", taken, len(run.outcomes))]
    if marked:
        found.append(("watermarked bases alone", sum(bool(one.watermark_only_success) for one in marked), len(marked)))
    return [*found, ("poisons", sum(one.success for one in eligible), len(eligible))]


def _figure(found: Sequence[Arm]) -> Figure:
    title = "Targets taken for the base class"
    shown = [(name, yes / of if of else 0.0, wilson(yes, of)) for name, yes, of in found]
    rows = [
        [name, f"{yes} of {of}", percent(yes / of if of else None), interval(list(wilson(yes, of)))]
        for name, yes, of in found
    ]
    return Figure(
        rate_bars(shown, title),
        title,
        "Victims of one seed. The control is asked about all targets drawn, the others are counted over those that it "
        "gets right; the whiskers are 95 % intervals. What the poisons have beyond the "
        f"{'watermarked bases' if len(found) == 3 else 'control'} is the collision's.",
        Table(["trained on the training set and", "fell", "rate", "interval"], rows),
    )
