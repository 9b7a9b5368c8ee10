"""Poisoned pictures against certified heads: python benchmarks/certified_attacked.py [SHARED]

Dog against fish, 8 targets in both directions, 1, 5 and 18 poisons each (18 is 1 % of the training pictures), collided with the target
itself (no overshoot: a poison at the target's place is a vote against it), stored and read back; the paper's head, radius
votes and neighbours are asked on the same poisons, and the latter two on as many perfect collisions. Ten minutes on 2 cores;
runs lie in runs/bench and go on where they were. The result is benchmarks/results/certified_attacked.json.
"""

import json
import os
import sys
from pathlib import Path

from poisonfrogs import Audit, run_audit

ROOT = Path(__file__).parent.parent
HEADS = ("certified:radius:0.3", "certified:neighbours:191")
FIGURES = ("family", "parameters", "n_eligible", "n_success", "ci95", "n_perfect_success", "perfect_ci95", "n_broken")


def main() -> None:
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("POISONFROGS_SHARED", ROOT.parent / "shared"))
    rows = []
    for poisons in (1, 5, 18):
        for head in HEADS:
            out = ROOT / "runs/bench" / f"{head.replace(':', '-')}-{poisons}"
            given = {"targets": 8, "poisons": poisons, "overshoot": 0.0, "passes": 40, "head": head}
            summary = run_audit(Audit(data=shared / "data/dogfish", out=out, **given))
            usual = {key: summary[key] for key in ("n_eligible", "n_success", "ci95", "control_rate")}
            rows.append(
                {"poisons": poisons, "usual": usual, "certified": {key: summary["certified"][key] for key in FIGURES}}
            )
            print(rows[-1], flush=True)
    result = {"n": 8, "rows": rows, "versions": summary["versions"], "hardware": summary["hardware"]}
    (ROOT / "benchmarks/results/certified_attacked.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
