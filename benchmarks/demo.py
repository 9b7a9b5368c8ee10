"""What `poisonfrogs demo` finds, and how long it takes from nothing: python benchmarks/demo.py

A process of its own with an empty feature cache, as for a new user after the installation. Half a minute on 2
cores; the result is benchmarks/results/demo.json.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "poisonfrogs", "demo", "--out", f"{folder}/run", "--cache", f"{folder}/cache"]
        started = time.perf_counter()
        done = subprocess.run([*command, "--format", "json"], check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    summary = json.loads(done.stdout)
    result = {"n": summary["n_trials"], "seconds": round(seconds, 1), **summary}
    (ROOT / "benchmarks/results/demo.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{summary['n_success']} of {summary['n_eligible']} in {seconds:.1f} s")


if __name__ == "__main__":
    main()
