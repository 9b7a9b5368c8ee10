"""Intervals for the rates we report."""

from __future__ import annotations

from typing import Any


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927); (0, 1) when nothing was tried.

    >>> [round(x, 4) for x in wilson(16, 16)]
    [0.8064, 1.0]
    """
    from scipy.stats import binomtest

    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def rounded(values: Any) -> list[float]:
    """Numbers as a journal holds them: six places, which JSON gives back as they were.

    >>> rounded([1 / 3, 1])
    [0.333333, 1.0]
    """
    return [round(float(value), 6) for value in values]
