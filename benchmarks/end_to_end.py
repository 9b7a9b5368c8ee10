"""Many watermarked poisons against networks that retrain every layer, on CIFAR-10: python benchmarks/end_to_end.py

    python benchmarks/end_to_end.py NAME [--trials N] [--shared SHARED]   run N more trials of a series, then stop
    python benchmarks/end_to_end.py --results                             benchmarks/results/end_to_end.json, and a table

A trial takes about four minutes on 2 cores, so the series run in pieces, across days: each leaves its plan, journal and
timings in benchmarks/journals/NAME, from which it goes on.
"""

import argparse
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from poisonfrogs import Audit, journal, run_audit, wilson
from poisonfrogs.pipeline import hardware, versions

ROOT = Path(__file__).parent.parent
JOURNALS = ROOT / "benchmarks/journals"
KEPT = ("plan.json", "journal.jsonl", "timings.jsonl")
BIRD_DOG: dict[str, Any] = {"context": "end-to-end", "target_class": "bird", "base_class": "dog", "threads": 2}
SERIES: dict[str, dict[str, Any]] = {
    "bird-dog-50": {**BIRD_DOG, "poisons": 50},
    "bird-dog-1": {**BIRD_DOG, "poisons": 1},
    "bird-dog-50-unfitted": {**BIRD_DOG, "poisons": 50, "clean_epochs": 4},
}


class Enough(Exception):  # noqa: N818
    """So many trials were wanted."""


def run(name: str, trials: int, shared: Path) -> None:
    out = ROOT / "runs/bench" / name
    out.mkdir(parents=True, exist_ok=True)
    for file in KEPT:
        if (JOURNALS / name / file).exists() and not (out / file).exists():
            shutil.copy(JOURNALS / name / file, out / file)
    first: list[int] = []

    def enough(stage: str, done: int, of: int) -> None:
        if stage.startswith("crafting"):
            first.append(done)
            print(f"{name}: {done} of {of} trials", flush=True)
            if done - first[0] >= trials:
                raise Enough

    with suppress(Enough):
        run_audit(Audit(data=shared / "data/cifar10", out=out, **SERIES[name]), progress=enough)
    (JOURNALS / name).mkdir(parents=True, exist_ok=True)
    for file in KEPT:
        shutil.copy(out / file, JOURNALS / name / file)


def point(name: str) -> dict[str, Any]:
    """What a series has come to so far."""
    plan = json.loads((JOURNALS / name / "plan.json").read_bytes())
    rows = journal.rows(JOURNALS / name / "journal.jsonl")
    timings = journal.rows(JOURNALS / name / "timings.jsonl")
    eligible = [row for row in rows if row["eligible"]]
    n = len(eligible)
    fell, marked = (sum(bool(row[key]) for row in eligible) for key in ("success", "watermark_only_success"))
    wrong, classes = sum(row["control_wrong"] for row in rows), plan["data"]["classes"]

    def median(values: list[float]) -> float | None:
        return sorted(values)[len(values) // 2] if values else None

    base = classes.index(rows[0]["base_class"])
    return {
        "protocol": "paper",
        "target_class": rows[0]["target_class"],
        "base_class": rows[0]["base_class"],
        **{key: plan["audit"][key] for key in ("context", "model", "poisons", "watermark", "epochs", "learning_rate")},
        **{key: plan["audit"][key] for key in ("passes", "base_choice", "target_choice", "clean_epochs")},
        "n": n,
        "n_success": fell,
        "success_rate": fell / n if n else None,
        "ci95": wilson(fell, n),
        "watermark_only_rate": marked / n if n else None,
        "watermark_only_ci95": wilson(marked, n),
        "n_trials": len(rows),
        "control_rate": wrong / len(rows),
        "control_ci95": wilson(wrong, len(rows)),
        "n_failed": sum(row["failed"] for row in rows),
        "median_confidence": median([row["probabilities"][base] for row in eligible]),
        "median_distance_before": median([d for row in rows for d in row["distance_before"]]),
        "median_distance_after": median([d for row in rows for d in row["distance_after"]]),
        "median_linf": median([d for row in rows for d in row["linf"]]),
        "mean_accuracy_drop": sum(row["control_accuracy"] - row["accuracy"] for row in rows) / len(rows),
        "clean_network": plan["clean_network"],
        "median_seconds_a_trial": median([row["seconds"]["total"] for row in timings]),
        "median_seconds_crafting": median([row["seconds"]["crafting"] for row in timings]),
        "versions": sorted({row["versions"] for row in rows}),
    }


def results() -> None:
    torch.set_num_threads(2)
    points = {name: point(name) for name in SERIES if (JOURNALS / name / "journal.jsonl").exists()}
    found = {
        "points": [{"series": name, **one} for name, one in points.items()],
        "versions": versions(),
        "hardware": hardware(torch.device("cpu")),
    }
    (ROOT / "benchmarks/results/end_to_end.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, one in points.items():
        low, high = one["ci95"]
        print(
            f"{name}: {one['n_success']} of {one['n']} ({low:.0%} to {high:.0%}), watermark only "
            f"{one['watermark_only_rate'] or 0:.0%}, clean training loss {one['clean_network']['training_loss']:.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=list(SERIES))
    parser.add_argument("--trials", type=int, default=10**6)
    parser.add_argument("--shared", type=Path, default=os.environ.get("POISONFROGS_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--results", action="store_true")
    given = parser.parse_args()
    if given.name:
        run(given.name, given.trials, Path(given.shared))
    if given.results or given.name:
        results()


if __name__ == "__main__":
    main()
