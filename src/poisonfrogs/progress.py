"""How long work says how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (stage, done, of)
_MEASURED = 1.0  # seconds that are measured before they tell how long the rest takes: what is over sooner needs no word


def counting(progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """Told how many more are done, it says how many of all.

    >>> tell = counting(print, "features", 3)
    >>> tell(1), tell(2)
    features 1 3
    features 3 3
    (None, None)
    """
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        progress(stage, done, total)

    return tell


def foretelling(progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """The same, for work that goes on at one pace: early on, the stage comes to say about how long it takes."""
    started, done, ahead = time.perf_counter(), 0, ""

    def tell(more: int) -> None:
        nonlocal done, ahead
        done += more
        passed = time.perf_counter() - started
        if not ahead and passed >= _MEASURED and 0 < done < total:
            ahead = f" (about {passed * total / done:.0f} s in all)"
        progress(stage + ahead, done, total)

    return tell
