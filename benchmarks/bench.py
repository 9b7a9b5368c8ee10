"""What the benchmarks share: where the development data is, audits that go on where they were, results with their machine."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads that spin slow all others down
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch
from markupsafe import Markup

from poisonfrogs import Audit, Summary, run_audit, wilson
from poisonfrogs.pipeline import hardware, versions
from poisonfrogs.report import page

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs/bench"
KEPT = (
    *("n_trials", "n_eligible", "n_success", "success_rate", "ci95", "control_rate", "control_ci95"),
    *("median_confidence", "clean_accuracy", "mean_accuracy_drop", "worst_accuracy_drop"),
    *("median_passes", "median_linf", "as_jpeg_rate", "as_jpeg_ci95", "seconds_per_trial", "checks"),
)


def arguments(text: str) -> argparse.Namespace:
    """SHARED and --cache, which every benchmark takes; exits where dogfish is not there."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("POISONFROGS_SHARED", ROOT.parent / "shared"))
    parser.add_argument("shared", nargs="?", type=Path, default=default, help="folder with data/dogfish and weights/")
    parser.add_argument("--cache", type=Path, help="folder for cached features; the user's cache folder by default")
    parser.add_argument("--short", action="store_true", help="few targets, nothing written to benchmarks/results")
    given = parser.parse_args()
    if not (given.shared / "data/dogfish").is_dir():
        parser.error(f"dogfish is not in {given.shared}; give the folder that holds data/dogfish and weights/")
    return given


def audited(name: str, given: argparse.Namespace, **options: Any) -> tuple[Summary, Path]:
    """An audit of dogfish, run or gone on with in runs/bench/NAME: its summary and its folder."""
    out = RUNS / (f"short-{name}" if given.short else name)
    data = options.pop("data", given.shared / "data/dogfish")
    found = run_audit(Audit(data=data, out=out, cache=given.cache, **options), progress=_quiet(name))
    print(f"{name}: {found['n_success']} of {found['n_eligible']}, median {found['median_confidence']}", flush=True)
    return found, out


def _quiet(name: str) -> Callable[[str, int, int], None]:
    def tell(stage: str, done: int, of: int) -> None:
        if stage.startswith("crafting"):
            print(f"{name}: {done} of {of}", flush=True)

    return tell


def rate(successes: int, n: int) -> dict[str, Any]:
    """A rate as every result gives it."""
    return {"n": n, "n_success": successes, "success_rate": successes / n if n else None, "ci95": wilson(successes, n)}


def write(name: str, result: dict[str, Any], given: argparse.Namespace) -> None:
    """benchmarks/results/NAME.json, with the versions and the machine."""
    whole = {**result, "versions": versions(), "hardware": hardware(torch.device("cpu"))}
    if given.short:
        print(json.dumps(whole, indent=1))
    else:
        (ROOT / "benchmarks/results" / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")


def draw(figure: Markup, name: str) -> None:
    """docs/NAME.svg, in the report's style."""
    style = f"<style><![CDATA[{page.static('page.css')}]]></style>"
    text = str(figure).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{style}", 1)
    (ROOT / f"docs/{name}.svg").write_text(text + "\n")
