"""The measurements of every trial: confidence, distance, visibility, the boundary, accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from poisonfrogs.report.figures import Figure, Table, histogram, paired
from poisonfrogs.report.folder import Outcome, RunFolder
from poisonfrogs.report.html import Section, render
from poisonfrogs.text import levels


def section(run: RunFolder) -> Section:
    """The third section."""
    outcomes = sorted(run.outcomes, key=lambda one: (-one.after, one.trial_id))
    figures = (
        [make(outcomes) for make in (_confidence, _distance, _linf, _ssim, _rotation, _accuracy)] if outcomes else []
    )
    return Section(
        "numbers", "Before and after", render("numbers.html", figures=[one for one in figures if one], f=run.figures)
    )


def _table(outcomes: Sequence[Outcome], **columns: Callable[[Outcome], str]) -> Table:
    names = [name.replace("_", " ") for name in columns]
    rows = [[str(one.trial_id), one.target_id, *(column(one) for column in columns.values())] for one in outcomes]
    return Table(["trial", "target", *names], rows)


def _confidence(outcomes: Sequence[Outcome]) -> Figure:
    pairs = [(one.before, one.after) for one in outcomes]
    title = "Confidence in the base class"
    return Figure(
        paired(pairs, ("without the poison", "with it", title), title, (0, 1)),
        title,
        "How sure the classifier is that the target belongs to the poison's class: hollow without the poison, filled "
        "with it, a line a target.",
        _table(outcomes, without=lambda one: f"{one.before:.6f}", with_poison=lambda one: f"{one.after:.6f}"),
    )


def _distance(outcomes: Sequence[Outcome]) -> Figure:
    pairs = [(min(one.distance_before), min(one.distance_after)) for one in outcomes]
    title = "Distance to the target in feature space"
    return Figure(
        paired(
            pairs,
            ("the base", "the poison", "Euclidean distance of the features"),
            title,
            (0, 1.06 * max(map(max, pairs)) or 1),
        ),
        title,
        "How far the unperturbed base (hollow) and the stored poison (filled) lie from the target; of several poisons "
        "the nearest. The attack aims beyond the target, so the distance need not be 0.",
        _table(
            outcomes,
            base=lambda one: f"{min(one.distance_before):.4f}",
            poison=lambda one: f"{min(one.distance_after):.4f}",
        ),
    )


def _linf(outcomes: Sequence[Outcome]) -> Figure:
    values = [255 * max(one.linf) for one in outcomes]
    low, high = int(min(values)), int(max(values)) + 1
    step = max(1, (high - low) // 12)
    edges = [edge - 0.5 for edge in range(max(low - step, 0), high + 2 * step, step)]
    title = "Largest change of a value (l-inf)"
    return Figure(
        histogram(values, "levels of 255", title, edges),
        title,
        "Of the stored poison against the picture the attack started from; of several poisons the largest.",
        _table(outcomes, linf=lambda one: ", ".join(levels(value) for value in one.linf)),
    )


def _ssim(outcomes: Sequence[Outcome]) -> Figure | None:
    held = [one for one in outcomes if any(value is not None for value in one.ssim)]
    if not held:
        return None
    values = [min(value for value in one.ssim if value is not None) for one in held]
    title = "Likeness to the base (SSIM)"
    return Figure(
        histogram(values, "structural similarity; 1 is the same picture", title),
        title,
        "Structural similarity of the poison and its base; of several poisons the lowest.",
        _table(held, ssim=lambda one: ", ".join("none" if value is None else f"{value:.4f}" for value in one.ssim)),
    )


def _rotation(outcomes: Sequence[Outcome]) -> Figure | None:
    held = [one for one in outcomes if one.rotation_degrees is not None]
    if not held:
        return None
    title = "How far the boundary turned"
    return Figure(
        histogram([one.rotation_degrees or 0.0 for one in held], "degrees", title),
        title,
        "The angle between the boundary trained without the poison and the one trained with it.",
        _table(held, degrees=lambda one: f"{one.rotation_degrees:.2f}"),
    )


def _accuracy(outcomes: Sequence[Outcome]) -> Figure:
    pairs = [(100 * one.control_accuracy, 100 * one.accuracy) for one in outcomes]
    title = "Accuracy on the other test pictures"
    values = [value for pair in pairs for value in pair]
    low = max(0.0, min(values) - max(0.2, 0.5 * (max(values) - min(values))))
    return Figure(
        paired(pairs, ("without the poison", "with it", "accuracy, %"), title, (low, 100.0)),
        title,
        "On all test pictures but the target: hollow without the poison, filled with it. Mind where the axis begins.",
        _table(
            outcomes,
            without=lambda one: f"{one.control_accuracy:.2%}",
            with_poison=lambda one: f"{one.accuracy:.2%}",
        ),
    )
