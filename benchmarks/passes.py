"""What the passes of a kill depend on, one choice changed at a time: python benchmarks/passes.py [SHARED] [--cache FOLDER] [--short]

32 targets of dog against fish (seed 5), one poison each, 8/255, EfficientNet-Lite0, the paper's recipe; the first row is what
`audit` does. About 8 minutes on 2 cores. The result is benchmarks/results/passes.json.
"""

from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

import torch
from bench import RUNS, arguments, rate, write

from poisonfrogs import Audit, audit, plan, summary, targets, trial
from poisonfrogs.attacks.collision import Collision

ROWS: dict[str, dict[str, Any]] = {
    "as it is: cycles of 30 passes, the later ones at a quarter, asked every 10": {},
    "later cycles at the first step": {"restart": 1.0},
    "later cycles at half": {"restart": 0.5},
    "later cycles at a tenth": {"restart": 0.1},
    "one cycle of 60 passes": {"passes": 60, "cycle": 60},
    "one cycle of 40 passes": {"passes": 40, "cycle": 40},
    "one cycle of 30 passes": {"passes": 30},
    "cycles of 20 passes": {"cycle": 20, "passes": 80},
    "asked every 5 passes": {"every": 5},
    "no overshoot": {"overshoot": 0.0},
    "overshoot 10": {"overshoot": 10.0},
    "no momentum": {"momentum": 0.0},
    "first step .01": {"step": 0.01},
    "first step .03": {"step": 0.03},
}


def main() -> None:
    given = arguments(__doc__ or "")
    out, wanted = RUNS / "passes", 8 if given.short else 32
    options = Audit(data=given.shared / "data/dogfish", targets=wanted, out=out, cache=given.cache, seed=5)
    prepared = audit.prepare(options, torch.get_num_threads(), lambda *_: None)
    for name in plan.FOLDERS:
        (out / name).mkdir(parents=True, exist_ok=True)
    found = {}
    for name, changed in ROWS.items():
        setting = replace(prepared.setting, attack=replace(Collision(), **changed))
        rows, seconds = [], 0.0
        for members in targets.groups(prepared.trials).values():
            some, timing = trial.run(setting, members)
            rows += some
            seconds += timing["seconds"]["crafting"]
        counted = summary.counted(rows, prepared.dataset.classes)
        found[name] = {
            "attack": asdict(setting.attack),
            **rate(counted["n_success"], counted["n_eligible"]),
            **{
                key: counted[key]
                for key in ("control_rate", "median_confidence", "median_passes", "mean_accuracy_drop")
            },
            "mean_passes": round(fmean(row["passes"] for row in rows), 1),
            "crafting_seconds": round(seconds, 1),
        }
        print(name, found[name], flush=True)
    write("passes", {"n": wanted, "rows": found}, given)


if __name__ == "__main__":
    main()
