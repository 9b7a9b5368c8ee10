"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (stage, done, of)


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
