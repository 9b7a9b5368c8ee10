"""What an audit costs as it grows, and what a second worker brings.

    python benchmarks/scaling.py SHARED cost|workers [--cache CACHE]

`cost`: targets (16 to 64), classes (2, 10, 100) and training pictures (2,000 to 50,000) of CIFAR-10, one at a time,
EfficientNet-Lite0 at 128 x 128 pixels (--view squash), the paper's head, 10 passes, 2 threads. The 100 classes are
pseudo-classes: each of CIFAR-10's cut in ten by content. `workers`: the same audit of 256 targets and 60 passes with one
worker of one thread, two of one, and one of two. About 10 minutes each on 2 cores, once the features are cached; cases
that are done are not run again. Runs lie in runs/scaling; the result is benchmarks/results/scaling.json.
"""

import argparse
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from poisonfrogs import Audit, journal, run_audit
from poisonfrogs.pipeline import hardware, versions

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs/scaling"
OUT = ROOT / "benchmarks/results/scaling.json"
TEST = 2000
CASES = {
    "targets": [{"targets": count, "classes": 10, "train": 2000} for count in (16, 32, 64)],
    "classes": [{"targets": 16, "classes": count, "train": 2000} for count in (2, 10, 100)],
    "training pictures": [{"targets": 16, "classes": 10, "train": count} for count in (2000, 10_000, 50_000)],
}
WORKERS = {"1 worker, 1 thread": (1, 1), "2 workers, 1 thread each": (2, 1), "1 worker, 2 threads": (1, 2)}


def relabelled(classes: int) -> Callable[[int, bytes], int | None]:
    """What becomes of CIFAR-10's label; None leaves the picture out."""
    if classes <= 10:
        return lambda label, content: label if label < classes else None
    return lambda label, content: 10 * label + hashlib.sha256(content).digest()[0] % 10


def written(shared: Path, classes: int, train: int) -> Path:
    """Parquet files with the same bytes of the same pictures, so that their features are in the cache."""
    folder = RUNS / f"data-{classes}-{train}"
    if (folder / "test-00000-of-00001.parquet").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("test", TEST)):
        (source,) = sorted((shared / "data/cifar10/plain_text").glob(f"{split}-*.parquet"))
        table, label = pq.read_table(source), relabelled(classes)
        pictures, labels = table["img"].to_pylist(), table["label"].to_pylist()
        told = [label(old, picture["bytes"]) for old, picture in zip(labels, pictures, strict=True)]
        kept = [row for row in range(len(told)) if told[row] is not None][:count]
        columns = {"img": table["img"].take(kept), "label": pa.array([told[row] for row in kept])}
        pq.write_table(pa.table(columns), folder / f"{split}-00000-of-00001.parquet")
    return folder


def audit(shared: Path, cache: Path | None, case: dict[str, int], **more: Any) -> Audit:
    return Audit(
        data=written(shared, case["classes"], case["train"]),
        targets=case["targets"],
        view="squash",
        size=128,
        cache=cache,
        out=RUNS / "run",
        **{"passes": 10, **more},
    )


def timed(options: Audit) -> dict[str, Any]:
    """Seconds of a fresh run: all of it, and its stages added up over the groups."""
    shutil.rmtree(options.out, ignore_errors=True)
    load, started = os.getloadavg()[0], time.perf_counter()
    summary = run_audit(options)
    seconds = time.perf_counter() - started
    groups = [row["seconds"] for row in journal.rows(options.out / "timings.jsonl")]
    crafting, total, exhibits = (sum(group[key] for group in groups) for key in ("crafting", "total", "exhibits"))
    return {
        "n": summary["n_trials"],
        "n_success": summary["n_success"],
        "seconds": round(seconds, 1),
        "crafting": round(crafting, 1),
        "judging": round(total - crafting, 1),
        "exhibits": round(exhibits, 1),
        "everything_else": round(seconds - total - exhibits, 1) if options.workers == 1 else None,
        "load_average_before": round(load, 2),
    }


def exponent(points: list[tuple[float, float]]) -> float:
    """The slope in logarithms: 1 is linear growth, 2 quadratic."""
    sizes, seconds = np.log(np.array(points)).T
    return round(float(np.polyfit(sizes, seconds, 1)[0]), 2)


def cost(shared: Path, cache: Path | None, found: dict[str, Any]) -> None:
    for axis, cases in CASES.items():
        rows = found.setdefault(axis, {"rows": {}})["rows"]
        for case in cases:
            size = case[{"training pictures": "train"}.get(axis, axis)]
            if str(size) not in rows:
                rows[str(size)] = timed(audit(shared, cache, case, threads=2)) | case
                save(found)
            print(axis, size, rows[str(size)], flush=True)
        for stage in ("seconds", "judging"):
            found[axis][f"exponent_of_{stage}"] = exponent([(float(size), row[stage]) for size, row in rows.items()])


def workers(shared: Path, cache: Path | None, found: dict[str, Any]) -> None:
    case = {"targets": 256, "classes": 10, "train": 2000}
    timed(audit(shared, cache, {**case, "targets": 1}, threads=2, passes=1))  # whose features are the others'
    rows, journals = {}, {}
    for name, (count, threads) in WORKERS.items():
        options = audit(shared, cache, case, threads=threads, workers=count, passes=60)
        rows[name] = timed(options)
        journals[name] = hashlib.sha256((options.out / "journal.jsonl").read_bytes()).hexdigest()
        print(name, rows[name], flush=True)
    one, two, threads_ = (rows[name]["seconds"] for name in WORKERS)
    found["workers"] = {
        "rows": rows,
        "same_journal": len({journals[name] for name in list(WORKERS)[:2]}) == 1,
        "journal_sha256": journals,
        "times_faster_than_one_of_one_thread": round(one / two, 2),
        "times_faster_than_one_of_two_threads": round(threads_ / two, 2),
    }


def save(found: dict[str, Any]) -> None:
    rows = [row for part in found.values() if isinstance(part, dict) for row in part.get("rows", {}).values()]
    torch.set_num_threads(2)
    head = {"n": sum(row["n"] for row in rows), "versions": versions(), "hardware": hardware(torch.device("cpu"))}
    OUT.write_text(json.dumps(head | {key: value for key, value in found.items() if key not in head}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("what", choices=["cost", "workers"])
    parser.add_argument("--cache", type=Path)
    given = parser.parse_args()
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    {"cost": cost, "workers": workers}[given.what](given.shared, given.cache, found)
    save(found)


if __name__ == "__main__":
    main()
