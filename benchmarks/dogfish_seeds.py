"""Dog against fish, 16 targets for each of three seeds: python benchmarks/dogfish_seeds.py [SHARED]

EfficientNet-Lite0 and MobileNetV2 at l-inf 8/255 with the paper's head, and the paper's beta form. About 8
minutes on 2 cores. Runs lie in runs/bench and go on where they were; the result is
benchmarks/results/dogfish_seeds.json.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from poisonfrogs import Audit, run_audit, wilson

ROOT = Path(__file__).parent.parent
KEPT = [
    "n_trials",
    "n_eligible",
    "n_success",
    "success_rate",
    "ci95",
    "control_rate",
    "control_ci95",
    "median_confidence",
    "clean_accuracy",
    "mean_accuracy_drop",
    "worst_accuracy_drop",
    "median_passes",
    "median_linf",
    "seconds_per_trial",
    "checks",
]


def cases(shared: Path) -> dict[str, dict[str, Any]]:
    mobilenet = f"mobilenetv2_100={shared / 'weights/mobilenetv2_100.safetensors'}"
    found: dict[str, dict[str, Any]] = {}
    for seed in range(3):
        found[f"tf_efficientnet_lite0, 8/255, seed {seed}"] = {"seed": seed}
        found[f"mobilenetv2_100, 8/255, seed {seed}"] = {"seed": seed, "model": mobilenet}
    found["tf_efficientnet_lite0, beta form, 400 passes, seed 0"] = {"seed": 0, "eps": None, "passes": 400}
    return found


def main() -> None:
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("POISONFROGS_SHARED", ROOT.parent / "shared"))
    if not (shared / "data/dogfish").is_dir():
        sys.exit(f"dogfish is not in {shared}; give the folder that holds data/dogfish and weights/")
    rows: dict[str, Any] = {}
    for name, options in cases(shared).items():
        out = ROOT / "runs/bench" / name.replace("/", "-").replace(", ", "_").replace(" ", "-")
        summary = run_audit(Audit(data=shared / "data/dogfish", targets=16, out=out, **options))
        rows[name] = {key: summary[key] for key in KEPT}
        print(f"{name}: {summary['n_success']} of {summary['n_eligible']}, median {summary['median_confidence']}")
    bounded = [row for name, row in rows.items() if "lite0, 8/255" in name]
    successes, eligible = (sum(row[key] for row in bounded) for key in ("n_success", "n_eligible"))
    result = {
        "n": eligible,
        "success_rate": successes / eligible,
        "ci95": wilson(successes, eligible),
        "versions": summary["versions"],
        "hardware": summary["hardware"],
        "rows": rows,
    }
    (ROOT / "benchmarks/results/dogfish_seeds.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
