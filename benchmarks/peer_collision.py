"""Beside the Adversarial Robustness Toolbox's FeatureCollisionAttack: same network, pairs, machine, one run.

    python benchmarks/peer_collision.py PEER_PYTHON [SHARED] [--cache FOLDER]

PEER_PYTHON is the Python of an environment of its own (`pip install torch==2.14.1 timm safetensors
adversarial-robustness-toolbox==1.20.1`). Dog against fish, EfficientNet-Lite0, whole pictures of 224 pixels, 4 targets.
The peer runs each setting of a small grid (peer_art.SETTINGS) for 300 iterations a poison, as it is made; ours runs as
`audit` does, at 8/255 and at the l-inf that the peer's best setting came to. A kill is one by a victim that neither has seen,
of the picture stored as PNG: the peer's as it left it, and clipped to 8/255. About 15 minutes on 2 cores. The
result is benchmarks/results/peer_collision.json.
"""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bench import RUNS, arguments, audited, rate, write
from PIL import Image
from safetensors.torch import save_file
from storage import fell, scene

from poisonfrogs import journal
from poisonfrogs.judge import Scene

EPS = 8 / 255
Rows = list[dict[str, Any]]


def peer_half(python: str, folder: Path, place: Scene, rows: Rows, ours: Path) -> list[dict[str, Any]]:
    """Run the peer on the pairs of our run."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = {
        "targets": [row["target_file"] for row in rows],
        "bases": [row["base_files"][0] for row in rows],
    }
    pairs = {name: np.stack([np.asarray(Image.open(ours / file)) for file in files]) for name, files in shown.items()}
    np.savez(folder / "pairs.npz", **pairs)
    save_file(
        {name: tensor.contiguous() for name, tensor in place.net.body.state_dict().items()},
        folder / "weights.safetensors",
    )
    command = [python, str(Path(__file__).parent / "peer_art.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        found = []
        for line in running.stdout:
            found.append(json.loads(line))
            print(line, end="", flush=True)
    if running.returncode:
        sys.exit(f"{python} peer_art.py ended with {running.returncode}")
    return found


def judged(place: Scene, rows: Rows, pictures: np.ndarray, bases: np.ndarray, folder: Path) -> dict[str, Any]:
    """Store pictures (n, h, w, 3) in [0, 1] as PNG, read them back, and ask victims."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = []
    for i, picture in enumerate(pictures):
        Image.fromarray((picture * 255).round().clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        stored.append(Image.open(folder / f"{i}.png").convert("RGB"))
    renamed = [row | {"poison_files": [f"{i}.png"]} for i, row in enumerate(rows)]
    successes, eligible = fell(place, renamed, folder, "png")
    targets = place.target_features[[place.test.ids.index(row["target_id"]) for row in rows]]
    distances = (place.net.features(stored) - targets).norm(dim=1)
    change = np.abs(np.stack([np.asarray(image, dtype=float) for image in stored]) - bases) / 255
    return {
        **rate(successes, eligible),
        "median_distance": round(float(distances.median()), 4),
        "median_linf": round(float(median(change.max((1, 2, 3)))), 4),
    }


def of_ours(name: str, given: Namespace, eps: float) -> tuple[dict[str, Any], Path, Rows]:
    """An audit of 4 targets, alone, as the peer's poisons are made one at a time: seconds of crafting a kill."""
    summary, out = audited(name, given, targets=4, view="squash", eps=eps)
    rows = journal.rows(out / "journal.jsonl")
    seconds = sum(one["seconds"]["crafting"] for one in journal.rows(out / "timings.jsonl"))
    row = {
        **rate(summary["n_success"], summary["n_eligible"]),
        "eps": eps,
        "median_distance": median(row["distance_after"][0] for row in rows),
        "median_linf": summary["median_linf"],
        "seconds": round(seconds, 2),
        "seconds_per_kill": round(seconds / summary["n_success"], 2) if summary["n_success"] else None,
    }
    return row, out, rows


def main() -> None:
    python = sys.argv.pop(1)
    given = arguments(__doc__ or "")
    place = scene(given, "squash")
    ours, out, rows = of_ours("peer-ours", given, EPS)
    folder = RUNS / "peer-art"
    bases = np.stack([np.asarray(Image.open(out / row["base_files"][0])) for row in rows]).astype(float)
    settings = []
    for one in peer_half(python, folder, place, rows, out):
        made = np.load(folder / f"art-{one['setting']}.npz")["poisons"]
        clipped = np.clip(made, bases / 255 - EPS, bases / 255 + EPS)
        free = judged(place, rows, made, bases, folder / one["setting"])
        total = round(sum(one["seconds"]), 1)
        settings.append(
            {
                **one,
                "total_seconds": total,
                "as_it_left_it": free,
                "clipped_to_8_255": judged(place, rows, clipped, bases, folder / f"{one['setting']}, clipped"),
                # censored where it never kills: at least so long
                "seconds_per_kill": round(total / max(free["n_success"], 1), 1),
                "never_kills": not free["n_success"],
            }
        )
    best = max(settings, key=lambda one: (one["as_it_left_it"]["n_success"], -one["as_it_left_it"]["median_distance"]))
    equal, _, _ = of_ours("peer-ours-equal", given, min(best["as_it_left_it"]["median_linf"], 1.0))
    kill = ours["seconds_per_kill"]
    fastest = min(settings, key=lambda one: (one["never_kills"], one["seconds_per_kill"]))
    result = {
        "n": ours["n"],
        "peer": "adversarial-robustness-toolbox 1.20.1, FeatureCollisionAttack",
        "cap_iterations": 300,
        "ours": ours,
        "ours_at_the_peers_linf": equal,
        "peer_settings": settings,
        "peer_nearest": best["setting"],
        "peer_fastest": fastest["setting"],
        "times_faster_per_kill": round(fastest["seconds_per_kill"] / kill, 1) if kill else None,
        "at_least": fastest["never_kills"],
    }
    write("peer_collision", result, given)


if __name__ == "__main__":
    main()
