"""Many watermarked poisons against networks that retrain every layer, on CIFAR-10: python benchmarks/end_to_end.py

    python benchmarks/end_to_end.py NAME... [--trials N] [--minutes M] [--workers W]   N more trials of each series
    python benchmarks/end_to_end.py --list                               the series, and how far each has come
    python benchmarks/end_to_end.py --results                            benchmarks/results/end_to_end.json, and a table

A trial of the paper's protocol takes about four minutes on 2 cores, of the laptop's half a minute, and on a GPU seconds;
so the series run in pieces, across days: each leaves its plan, journal, timings and machine in benchmarks/journals/NAME,
from which it goes on, on a machine of the same kind.
"""

import argparse
import fnmatch
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench import draw
from two_classes import write_two_classes

from poisonfrogs import Audit, end_to_end, journal, run_audit, wilson
from poisonfrogs.images import Images
from poisonfrogs.models import Net
from poisonfrogs.pictures import Unreadable
from poisonfrogs.pipeline import hardware, versions
from poisonfrogs.report.figures import Look, Rates, rates
from poisonfrogs.training import Pixels

ROOT = Path(__file__).parent.parent
JOURNALS = ROOT / "benchmarks/journals"
KEPT = ("plan.json", "journal.jsonl", "timings.jsonl")
PAPER: dict[str, Any] = {"context": "end-to-end", "target_class": "bird", "base_class": "dog"}
AIRPLANES = {**PAPER, "target_class": "airplane", "base_class": "frog", "targets": 50}
LAPTOP = {**PAPER, "targets": 20}
SERIES: dict[str, dict[str, Any]] = {
    **{
        f"paper-{poisons}-{opacity}": {**PAPER, "poisons": poisons, "watermark": opacity / 100}
        for opacity in (30, 20)
        for poisons in (50, 1, 5, 10, 25, 70)
    },
    **{f"paper-50-30-clean-{epochs}": {**PAPER, "clean_epochs": epochs} for epochs in (2, 4, 8, 12)},
    "paper-50-0": {**PAPER, "watermark": 0.0},
    "paper-50-30-one-base": {**PAPER, "base_choice": "one"},
    "airplane-frog-50-30": AIRPLANES,
    "airplane-frog-50-30-outliers": {**AIRPLANES, "target_choice": "least-confident"},
    "scratch-resnet20-50-30": {**PAPER, "context": "scratch", "model": "cifar_resnet20", "targets": 10},
    **{
        f"laptop-{poisons}-{opacity}": {**LAPTOP, "poisons": poisons, "watermark": opacity / 100}
        for opacity in (30, 20)
        for poisons in (1, 5, 10, 25, 50)
    },
    **{f"laptop-50-30-clean-{epochs}": {**LAPTOP, "clean_epochs": epochs} for epochs in (2, 8, 12, 16)},
    "laptop-50-0": {**LAPTOP, "watermark": 0.0},
    "laptop-50-30-one-base": {**LAPTOP, "base_choice": "one"},
    "laptop-50-30-outliers": {**LAPTOP, "target_choice": "least-confident"},
}


class Enough(Exception):  # noqa: N818
    """So many trials were wanted, or so many minutes."""


def laptop_data(shared: Path) -> Path:
    """Two classes of CIFAR-10 and fewer pictures."""
    out = ROOT / "runs/bench/laptop-data"
    if not out.exists():
        write_two_classes(shared / "data/cifar10", out, [PAPER["target_class"], PAPER["base_class"]], 2500)
    return out


def remembering(read: Callable[..., Any]) -> Callable[..., Any]:
    """The pictures of CIFAR-10, kept from one series to the next."""
    held: dict[Any, tuple[Pixels, dict[int, Unreadable]]] = {}

    def pixels(net: Net, images: Images, tell: Callable[[int], None]) -> Any:
        key = net.view, net.device, tuple(images.hashes)
        if key not in held:
            held[key] = read(net, images, tell)
        return held[key]

    return pixels


def run(name: str, given: argparse.Namespace, until: float) -> None:
    out, left = ROOT / "runs/bench" / name, JOURNALS / name
    out.mkdir(parents=True, exist_ok=True)
    for file in KEPT:
        if (left / file).exists() and not (out / file).exists():
            shutil.copy(left / file, out / file)
    first: list[int] = []

    def enough(stage: str, done: int, of: int) -> None:
        if stage.startswith("crafting"):
            first.append(done)
            print(f"{time.strftime('%H:%M:%S')} {name}: {done} of {of} trials", flush=True)
            if done < of and (done - first[0] >= given.trials or time.monotonic() > until):
                raise Enough

    data = laptop_data(given.shared) if name.startswith("laptop") else given.shared / "data/cifar10"
    with suppress(Enough):
        run_audit(Audit(data=data, out=out, cache=given.cache, workers=given.workers, **SERIES[name]), progress=enough)
    left.mkdir(parents=True, exist_ok=True)
    for file in KEPT:
        shutil.copy(out / file, left / file)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = {"hardware": hardware(device), "versions": versions()}
    (left / "machine.json").write_text(json.dumps(machine, indent=1) + "\n")


def point(name: str) -> dict[str, Any]:
    """What a series has come to so far."""
    plan, machine = (json.loads((JOURNALS / name / file).read_bytes()) for file in ("plan.json", "machine.json"))
    rows = journal.rows(JOURNALS / name / "journal.jsonl")
    timings = journal.rows(JOURNALS / name / "timings.jsonl")
    eligible = [row for row in rows if row["eligible"]]
    n = len(eligible)
    fell = sum(row["success"] for row in eligible)
    marked = sum(bool(row["watermark_only_success"]) for row in eligible)
    wrong, base = sum(row["control_wrong"] for row in rows), plan["data"]["classes"].index(rows[0]["base_class"])
    said = [[row[key][base] for row in eligible] for key in ("probabilities", "control_probabilities")]
    watermark = bool(plan["audit"]["watermark"])
    return {
        "protocol": name.split("-")[0] if name.startswith("laptop") else "paper",
        "target_class": rows[0]["target_class"],
        "base_class": rows[0]["base_class"],
        **{key: plan["audit"][key] for key in ("context", "model", "poisons", "watermark", "epochs", "learning_rate")},
        **{key: plan["audit"][key] for key in ("passes", "base_choice", "target_choice", "clean_epochs")},
        "n_train": plan["data"]["n_train"],
        "n": n,
        "n_success": fell,
        "success_rate": fell / n if n else None,
        "ci95": wilson(fell, n),
        "watermark_only_rate": marked / n if n and watermark else None,
        "watermark_only_ci95": wilson(marked, n) if watermark else None,
        "n_trials": len(rows),
        "control_rate": wrong / len(rows),
        "control_ci95": wilson(wrong, len(rows)),
        "n_failed": sum(row["failed"] for row in rows),
        "median_confidence": median(said[0]) if n else None,
        "control_median_confidence": median(said[1]) if n else None,
        "median_distance_before": median(d for row in rows for d in row["distance_before"]),
        "median_distance_after": median(d for row in rows for d in row["distance_after"]),
        "median_linf": median(d for row in rows for d in row["linf"]),
        "median_boundary_rotation": [
            median(way) for way in zip(*(row["boundary_rotation"] for row in rows if not row["failed"]), strict=True)
        ],
        "mean_accuracy_drop": sum(row["control_accuracy"] - row["accuracy"] for row in rows) / len(rows),
        "clean_network": plan["clean_network"],
        "seconds_a_trial": sum(row["seconds"]["total"] for row in timings) / len(rows),
        "seconds_crafting": sum(row["seconds"]["crafting"] for row in timings) / len(rows),
        "code": sorted({row["versions"] for row in rows}),
        **machine,
    }


def results() -> None:
    points = {name: {"series": name, **point(name)} for name in SERIES if (JOURNALS / name / "journal.jsonl").exists()}
    found = {
        "n": sum(one["n_trials"] for one in points.values()),
        "points": list(points.values()),
        "versions": versions(),
        "hardware": "; ".join(sorted({one["hardware"] for one in points.values()})),
    }
    (ROOT / "benchmarks/results/end_to_end.json").write_text(json.dumps(found, indent=1) + "\n")
    curve(list(points.values()))
    fit(list(points.values()))
    for name, one in points.items():
        low, high = one["ci95"]
        print(
            f"{name}: {one['n_success']} of {one['n']} ({low:.0%} to {high:.0%}), watermark only "
            f"{one['watermark_only_rate'] or 0:.0%}, clean training loss {one['clean_network']['training_loss']:.4f}, "
            f"{one['seconds_a_trial']:.1f} s a trial"
        )


def curve(points: list[dict[str, Any]]) -> None:
    """docs/end-to-end.svg: success against the number of poisons, and what the watermark alone does."""
    looks = {("paper", 0.3): "poison", ("paper", 0.2): "target", ("laptop", 0.3): "base", ("laptop", 0.2): "good"}
    lines = []
    for (protocol, opacity), tone in looks.items():
        mine = [one for one in points if (one["protocol"], one["watermark"]) == (protocol, opacity) and one["n"]]
        mine = sorted((one for one in mine if one["series"].count("-") == 2), key=lambda one: one["poisons"])
        for key, what, shape, dash in (
            ("success_rate", "poisons", "diamond", ""),
            ("watermark_only_rate", "watermark only", "square", "dashed"),
        ):
            ends = "ci95" if key == "success_rate" else "watermark_only_ci95"
            found = [(one["poisons"], *(100 * part for part in (one[key], *one[ends]))) for one in mine]
            if opacity == 0.3 or key == "success_rate":
                lines.append(Rates(Look(f"{protocol}, {opacity:.0%}: {what}", tone, shape, dash), found))
    ticks = [(at, f"{at}") for at in sorted({one["poisons"] for one in points})]
    draw(
        rates(lines, ticks, "number of poisons", "Success against the number of poisons, every layer trained"),
        "end-to-end",
    )


def fit(points: list[dict[str, Any]]) -> None:
    """docs/clean-fit.svg: 50 poisons at 30 %, against the training loss of the clean network that they were made with."""
    same = {"poisons": 50, "watermark": 0.3, "base_choice": "random", "target_choice": "random", "target_class": "bird"}
    mine = [one for one in points if one["n"] and one["context"] == "end-to-end" and same.items() <= one.items()]
    lines = []
    for protocol, tone in (("paper", "poison"), ("laptop", "base")):
        some = sorted((one for one in mine if one["protocol"] == protocol), key=loss)
        for key, ends, what, shape, dash in (
            ("success_rate", "ci95", "poisons", "diamond", ""),
            ("watermark_only_rate", "watermark_only_ci95", "watermark only", "square", "dashed"),
        ):
            found = [(math.log10(loss(one)), *(100 * part for part in (one[key], *one[ends]))) for one in some]
            lines.append(Rates(Look(f"{protocol}: {what}", tone, shape, dash), found))
    ticks = [(decade, f"{10.0**decade:g}") for decade in range(-4, 1)]
    draw(
        rates(lines, ticks, "training loss of the clean network", "Success against the clean network's fit"),
        "clean-fit",
    )


def loss(one: dict[str, Any]) -> float:
    return float(one["clean_network"]["training_loss"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="series; laptop-* is all of the laptop's")
    parser.add_argument("--trials", type=int, default=10**6)
    parser.add_argument("--minutes", type=float, default=10**6)
    parser.add_argument("--workers", type=int, default=1, help="on 2 cores two are faster than one")
    parser.add_argument("--shared", type=Path, default=os.environ.get("POISONFROGS_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--results", action="store_true")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    end_to_end.pixels = remembering(end_to_end.pixels)
    names = [name for pattern in given.names for name in fnmatch.filter(SERIES, pattern)]
    for name in dict.fromkeys(names):
        if time.monotonic() < until:
            run(name, given, until)
    if given.list:
        for name in SERIES:
            path = JOURNALS / name / "journal.jsonl"
            print(f"{name}: {len(journal.rows(path)) if path.exists() else 0} trials")
    if given.results or given.names:
        results()


if __name__ == "__main__":
    main()
