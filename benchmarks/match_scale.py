"""Time and memory of `match` on 50,000 pictures against 50,000: the training pictures of CIFAR-10 among themselves.

    python benchmarks/match_scale.py [SHARED]

Each size runs in a process of its own; memory is its largest resident set. What it finds are CIFAR-10's own
duplicates.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def work(folder: str, count: int) -> None:
    from poisonfrogs import data, match

    images = data.load(folder).train.select(range(count))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.perf_counter()
    found = match.match(images, images, same=True)
    print(
        json.dumps(
            {
                "n": count,
                "against": count,
                "seconds": round(time.perf_counter() - started, 1),
                "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                "before_mib": round(before),
                "found": found.counts(),
            }
        )
    )


def main() -> None:
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("POISONFROGS_SHARED", "../shared"))
    sizes = []
    for count in (5_000, 10_000, 50_000):
        command = [sys.executable, __file__, "--work", str(shared / "data/cifar10/plain_text"), str(count)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        sizes.append(json.loads(out.splitlines()[-1]))
        print(sizes[-1], flush=True)
    import torch  # after the runs: a process that starts another passes its own size on

    from poisonfrogs.pipeline import hardware, versions

    result = {
        "n": 50_000,
        "versions": versions(),
        "hardware": hardware(torch.device("cpu")),
        "load_average_after": round(os.getloadavg()[0], 2),
        "sizes": sizes,
    }
    (ROOT / "benchmarks/results/match_scale.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--work":
        work(sys.argv[2], int(sys.argv[3]))
    else:
        main()
