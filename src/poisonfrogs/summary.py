"""What the rows of a journal come to: counts, rates with their intervals, medians."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from statistics import fmean, median
from typing import Any

from poisonfrogs.stats import rounded, wilson, wilson_of_rate
from poisonfrogs.types import Counted, Opinion

Row = dict[str, Any]


def counted(rows: Sequence[Row], classes: Sequence[str]) -> Counted:
    """The figures of a journal, finished or not; None where there is nothing to count."""
    eligible = [row for row in rows if row["eligible"]]
    successes = sum(row["success"] for row in rows)
    watermarked, as_jpeg = (
        [row[key] for row in eligible if row[key] is not None] for key in ("watermark_only_success", "as_jpeg_success")
    )
    # a victim that could not be trained has no accuracy to lose
    drops = [row["control_accuracy"] - row["accuracy"] for row in rows if not row["failed"]]
    return {
        "n_trials": len(rows),
        "n_eligible": len(eligible),
        "n_success": successes,
        "success_rate": round(successes / len(eligible), 6) if eligible else None,
        "ci95": _interval(successes, len(eligible)),
        "n_failed_trials": sum(row["failed"] for row in rows),
        "control_rate": _mean([row["control_wrong"] for row in rows]),
        # asked about for several classes, it is one picture that is right or wrong without any poison
        "control_ci95": interval([row["control_wrong"] for row in rows], [row["target_id"] for row in rows]),
        "n_as_jpeg": len(as_jpeg),
        "n_as_jpeg_success": sum(as_jpeg),
        "as_jpeg_rate": _mean(as_jpeg),
        "as_jpeg_ci95": _interval(sum(as_jpeg), len(as_jpeg)) if as_jpeg else None,
        "watermark_only_rate": _mean(watermarked),
        "watermark_only_ci95": _interval(sum(watermarked), len(watermarked)) if watermarked else None,
        "median_confidence": _median([_of_base(row, "probabilities", classes) for row in eligible]),
        "control_median_confidence": _median([_of_base(row, "control_probabilities", classes) for row in eligible]),
        "clean_accuracy": _mean([row["control_accuracy"] for row in rows]),
        "mean_accuracy_drop": _mean(drops),
        "worst_accuracy_drop": round(max(drops), 6) if drops else None,
        "median_passes": _median([row["passes"] for row in rows]),
        "median_linf": _median([linf for row in rows for linf in row["linf"]]),
        "median_linf_from_base": _median([linf for row in rows for linf in row["linf_from_base"]]),
        "auditor": _opinion(rows, classes),
    }


def interval(verdicts: Sequence[bool], targets: Sequence[Hashable]) -> list[float]:
    """Wilson's 95 % of the rate of verdicts, a verdict a target: as wide as the number of different targets makes it.

    Where some stand there more often than others: of so many as tell as much (Kish 1965).

    >>> interval([True, False] * 10, [*range(10)] * 2) == interval([True, False] * 5, range(10))
    True
    """
    if not targets:
        return [0.0, 1.0]
    repeats = Counter(targets).values()
    independent = sum(repeats) ** 2 / sum(times**2 for times in repeats)
    return rounded(wilson_of_rate(fmean(verdicts), independent))


def each_once(said: Iterable[str]) -> str:
    """What was said of several, such as their hardware, in a line.

    >>> each_once(["a CPU", "a GPU", "a CPU; another"])
    'a CPU; a GPU; another'
    """
    return "; ".join(dict.fromkeys(one for line in said for one in line.split("; ")))


def _opinion(rows: Sequence[Row], classes: Sequence[str]) -> Opinion | None:
    """How often the independent network gives a poison the class of its label, and how often its base."""
    asked = [row for row in rows if row["auditor"]]
    if not asked:
        return None
    agreed = {kind: [_agrees(said, row, classes) for row in asked for said in row["auditor"][kind]] for kind in _KINDS}
    return {
        "n_poisons": len(agreed["poisons"]),
        "n_agreed": sum(agreed["poisons"]),
        "agreement": _mean(agreed["poisons"]),
        "ci95": _interval(sum(agreed["poisons"]), len(agreed["poisons"])),
        "n_bases_agreed": sum(agreed["bases"]),
    }


_KINDS = ("poisons", "bases")


def _agrees(said: Sequence[float], row: Row, classes: Sequence[str]) -> bool:
    return bool(classes[max(range(len(said)), key=said.__getitem__)] == row["base_class"])


def _of_base(row: Row, key: str, classes: Sequence[str]) -> float:
    return float(row[key][list(classes).index(row["base_class"])])


def _interval(successes: int, trials: int) -> list[float]:
    return [round(end, 6) for end in wilson(successes, trials)]


def _mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), 6) if values else None


def _median(values: Sequence[float]) -> float | None:
    return round(float(median(values)), 6) if values else None
