"""Where the time of an audit goes: python benchmarks/profile_audit.py [SHARED] [--cache FOLDER] [--short]

32 targets of dog against fish, one poison each, 8/255, features cached: seconds of each stage, and within crafting those inside
the network's own forward and backward, by clocks around the calls. About 2 minutes on 2 cores. The result is
benchmarks/results/profile.json and, as a picture, docs/profile.svg.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench import RUNS, arguments, audited, draw, write

from poisonfrogs import audit, descent, exhibits, trial
from poisonfrogs.descent import SignedMomentum
from poisonfrogs.judge import HeadJudge
from poisonfrogs.models import Net
from poisonfrogs.report import page
from poisonfrogs.report.figures import rate_bars
from poisonfrogs.train import Surrogate
from poisonfrogs.types import Stop

INSIDE = ("network, forward", "network, backward", "checks in fp32", "surrogate's heads", "steps and budgets")
SPENT: Counter[str] = Counter()
CRAFTING = "crafting"
RUNNING: list[str] = []  # the stages that have begun and not ended


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the seconds inside; those of INSIDE only while crafting, as the report's evasion examples use the same loop."""
    RUNNING.append(name)
    started = time.perf_counter()
    try:
        yield
    finally:
        RUNNING.pop()
        if name not in INSIDE or CRAFTING in RUNNING:
            SPENT[name] += time.perf_counter() - started


def clocked(place: Any, name: str, of: str) -> None:
    """Count the seconds of place.name."""
    whole = getattr(place, name)

    def timed(*given: Any, **options: Any) -> Any:
        with stage(of):
            return whole(*given, **options)

    setattr(place, name, timed)


def calls(of: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Count the seconds of every call."""

    def timed(*given: Any) -> Any:
        with stage(of):
            return call(*given)

    return timed


def made(place: Any, name: str, timed: Callable[..., Any]) -> None:
    """Have timed(what place.name returns, its arguments) in its place."""
    whole = getattr(place, name)

    def making(*given: Any, **options: Any) -> Any:
        return timed(whole(*given, **options), *given)

    setattr(place, name, making)


def network(call: Callable[..., Any], _: Net, precision: str, *__: Any) -> Callable[..., Any]:
    return calls("network, forward" if precision == "bf16" else "checks in fp32", call)


def heads(stop: Stop, *_: Any) -> Stop:
    return Stop(likely=calls("surrogate's heads", stop.likely), sure=calls("surrogate's heads", stop.sure))


def main() -> None:
    given = arguments(__doc__ or "")
    shutil.rmtree(RUNS / ("short-profile" if given.short else "profile"), ignore_errors=True)
    made(Net, "extractor", network)
    made(Surrogate, "watch", heads)
    clocked(audit, "prepare", "data, network, features from the cache")
    clocked(trial, "_craft", CRAFTING)
    clocked(descent.torch.autograd, "grad", "network, backward")
    clocked(SignedMomentum, "__call__", "steps and budgets")
    clocked(trial, "_store", "poisons stored and read back")
    clocked(HeadJudge, "__call__", "victims and their controls")
    clocked(exhibits, "pictures", "left for the report")
    clocked(exhibits, "features", "left for the report")
    clocked(exhibits, "evasions", "left for the report")
    started = time.perf_counter()
    _, folder = audited("profile", given, targets=8 if given.short else 32)
    page.write(folder, folder / "report.html")
    whole = time.perf_counter() - started
    inside = {name: SPENT.pop(name) for name in INSIDE}
    crafting = SPENT.pop(CRAFTING)
    rest = crafting - sum(inside.values())
    stages = {f"crafting: {name}": seconds for name, seconds in inside.items()} | {"crafting: the rest": rest, **SPENT}
    stages["everything else"] = whole - sum(stages.values())
    share = {name: round(seconds / whole, 4) for name, seconds in stages.items()}
    passes = sum(inside[name] for name in INSIDE[:3])  # whatever its precision, it is the network that computes
    result = {
        "n": 8 if given.short else 32,
        "seconds": {name: round(seconds, 2) for name, seconds in stages.items()},
        "share": share,
        "total_seconds": round(whole, 1),
        "network_share_of_crafting": round(passes / crafting, 4),
    }
    write("profile", result, given)
    if not given.short:
        bars = [(name, part, (part, part)) for name, part in share.items()]
        draw(rate_bars(bars, "Where the time of an audit goes"), "profile")


if __name__ == "__main__":
    main()
