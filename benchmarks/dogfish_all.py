"""All 782 targets of dog against fish, both directions, one poison each at l-inf 8/255: python benchmarks/dogfish_all.py

EfficientNet-Lite0 and the paper's head; MobileNetV2 says what each stored poison shows. About 15 minutes on 2
cores, by two workers of one thread each; the run lies in runs/bench/dogfish_all and goes on where it was. What survives is attacked again by more
means, each from the start: more passes, another base, two poisons. The result is benchmarks/results/dogfish_all.json.
"""

import time
from argparse import Namespace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench import KEPT, RUNS, arguments, audited, rate, write

from poisonfrogs import Summary, journal

FELLED_BY: dict[str, dict[str, Any]] = {
    "twice the passes": {"passes": 180},
    "another base": {"base_choice": "random"},
    "two poisons": {"poisons": 2},
    "16/255": {"eps": 16 / 255},
}


def spread(values: list[float]) -> dict[str, float]:
    """Least, quartiles, most."""
    low, middle, high = quantiles(values, n=4)
    found = {"min": min(values), "q1": low, "median": middle, "q3": high, "max": max(values)}
    return {name: round(value, 6) for name, value in found.items()}


def attacked(given: Namespace) -> tuple[Summary, Path]:
    """The audit, run or gone on with: its summary and its folder."""
    mobilenet = f"mobilenetv2_100={given.shared / 'weights/mobilenetv2_100.safetensors'}"
    return audited("dogfish_all", given, targets=32 if given.short else "all", auditor=mobilenet, workers=2)


def main() -> None:
    given = arguments(__doc__ or "")
    begun, started = (RUNS / "dogfish_all").exists(), time.monotonic()
    summary, out = attacked(given)
    whole = (
        None if begun else round((time.monotonic() - started) / 60, 1)
    )  # of a run that was gone on with nobody knows
    rows = journal.rows(out / "journal.jsonl")
    timings = journal.rows(out / "timings.jsonl")
    survivors = [row for row in rows if row["eligible"] and not row["success"]]
    result = {
        "n": summary["n_eligible"],
        **{key: summary[key] for key in KEPT},
        "auditor": summary["auditor"],
        "minutes": whole,
        "minutes_of_workers": {
            part: round(sum(one["seconds"][part] for one in timings) / 60, 1)
            for part in ("crafting", "total", "exhibits")
        },
        "by_direction": directions(rows),
        "passes": spread([row["passes"] for row in rows]),
        "linf": spread([row["linf"][0] for row in rows]),
        "ssim": spread([row["ssim"][0] for row in rows]),
        "confidence": spread([of_base(row) for row in rows if row["eligible"]]),
        "distance_before": spread([row["distance_before"][0] for row in rows]),
        "distance_after": spread([row["distance_after"][0] for row in rows]),
        "rotation_degrees": spread([row["rotation_degrees"] for row in rows]),
        "survivors": [survivor(row) for row in survivors],
        "felled_by": felled_by(given, [row["target_id"] for row in survivors]),
    }
    if survivors:
        result["survivors_distance_after"] = median(row["distance_after"][0] for row in survivors)
    write("dogfish_all", result, given)


def of_base(row: dict[str, Any]) -> float:
    """The poisoned victim's confidence that the target is of the base class."""
    return float(row["probabilities"][sorted({row["base_class"], row["target_class"]}).index(row["base_class"])])


def directions(rows: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = sorted({(row["target_class"], row["base_class"]) for row in rows})
    mine = {pair: [row for row in rows if (row["target_class"], row["base_class"]) == pair] for pair in pairs}
    return {
        f"{target} taken for {base}": rate(sum(row["success"] for row in some), sum(row["eligible"] for row in some))
        for (target, base), some in mine.items()
    }


def survivor(row: dict[str, Any]) -> dict[str, Any]:
    keys = ("target_id", "base_ids", "passes", "distance_before", "distance_after", "failure")
    return {key: row[key] for key in keys} | {"confidence": of_base(row)}


def felled_by(given: Namespace, targets: list[str]) -> dict[str, Any]:
    """What brings the survivors down, each way from the start."""
    found = {}
    for name, options in FELLED_BY.items() if targets else ():
        run = f"dogfish_all-{name.replace(' ', '-').replace('/', '-')}"
        summary, _ = audited(run, given, target=tuple(targets), **options)
        found[name] = rate(summary["n_success"], summary["n_eligible"])
    return found


if __name__ == "__main__":
    main()
