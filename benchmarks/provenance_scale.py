"""Time and memory of `sign` and `verify`: beside model-signing on 20,000 files, and for 10,000 to 1,000,000.

    python benchmarks/provenance_scale.py FOLDER [MODEL_SIGNING]

Makes files of 2,500 random bytes in FOLDER (4 GB of them; kept, and used again). MODEL_SIGNING is the program of PyPI's
model-signing, in an environment of its own (`pip install model-signing pyOpenSSL`). Every time is that of a whole
command, from start to exit, the programs taking turns, the median of the turns; a turn before them warms the cache, and
what was still read from the disk in the turns is in the result. Memory is the largest resident set of any one process.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SIZE = 2500
TURNS = 5
TURNS_OF_SCALE = 3


def make(folder: Path, count: int) -> Path:
    """`count` files, a thousand a folder."""
    data = folder / f"files{count}"
    if (folder / f"made{count}").exists():
        return data
    for start in range(0, count, 1000):
        (data / f"{start // 1000:04d}").mkdir(parents=True, exist_ok=True)
        content = os.urandom(SIZE * 1000)
        for i in range(min(1000, count - start)):
            (data / f"{start // 1000:04d}" / f"{i:03d}.bin").write_bytes(content[i * SIZE : (i + 1) * SIZE])
    (folder / f"made{count}").touch()
    return data


def timed(*command: object) -> dict[str, float]:
    """Seconds of a whole command, the largest resident set of its processes, and what it read from the disk."""
    wrapped = [sys.executable, __file__, "--run", *map(str, command)]
    out = subprocess.run(wrapped, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def run(command: list[str]) -> None:
    started = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(done.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {"seconds": round(seconds, 3), "peak_rss_mib": round(used.ru_maxrss / 1024)}
    print(json.dumps(found | {"read_mib": round(used.ru_inblock / 2048)}))  # blocks of 512 bytes


def ours(folder: Path, what: str, data: Path) -> list[object]:
    key = folder / "key"
    return [sys.executable, "-m", "poisonfrogs", what, data, "--key", key if what == "sign" else f"{key}.pub"]


def theirs(folder: Path, program: str, what: str, data: Path) -> list[object]:
    half = {"sign": ["--private_key", folder / "ms.pem"], "verify": ["--public_key", folder / "ms.pub"]}[what]
    return [program, what, "key", *half, "--signature", folder / "ms.sig", data]


def keys(folder: Path) -> None:
    if not (folder / "key").exists():
        subprocess.run([sys.executable, "-m", "poisonfrogs", "keygen", folder / "key"], check=True)
        curve = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        subprocess.run(["openssl", *curve, "-out", folder / "ms.pem"], check=True)
        subprocess.run(["openssl", "pkey", "-in", folder / "ms.pem", "-pubout", "-out", folder / "ms.pub"], check=True)


def beside_model_signing(folder: Path, program: str) -> dict[str, object]:
    data = make(folder, 20_000)
    times: dict[str, list[float]] = {}
    for turn in range(TURNS + 1):
        for what in ("sign", "verify"):
            for name, command in (
                ("poisonfrogs", ours(folder, what, data)),
                ("model-signing", theirs(folder, program, what, data)),
            ):
                seconds = timed(*command)["seconds"]
                if turn:  # the first warms the cache
                    times.setdefault(f"{name} {what}", []).append(seconds)
    median = {name: statistics.median(found) for name, found in times.items()}
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]
    return {
        "n": 20_000,
        "turns": TURNS,
        "version": version,
        "seconds": times,
        "median_seconds": median,
        "times_faster": {
            what: round(median[f"model-signing {what}"] / median[f"poisonfrogs {what}"], 2)
            for what in ("sign", "verify")
        },
    }


def scale(folder: Path, count: int) -> dict[str, dict[str, object]]:
    """`sign` and `verify` of `count` files, taking turns; the first turn warms the cache."""
    data = make(folder, count)
    turns: dict[str, list[dict[str, float]]] = {"sign": [], "verify": []}
    for _ in range(TURNS_OF_SCALE + 1):
        for what, done in turns.items():
            done.append(timed(*ours(folder, what, data)))
            print(what, count, done[-1], flush=True)
    return {f"{what} {count}": _summary(count, *done) for what, done in turns.items()}


def _summary(count: int, first: dict[str, float], *turns: dict[str, float]) -> dict[str, object]:
    seconds = statistics.median(one["seconds"] for one in turns)
    return {
        "seconds": seconds,
        "us_per_file": round(1e6 * seconds / count, 1),
        "peak_rss_mib": max(one["peak_rss_mib"] for one in turns),
        "turns": turns,
        "first": first,
    }


def main() -> None:
    import torch  # here: a process that starts a command passes its own size on

    from poisonfrogs.pipeline import hardware, versions

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    keys(folder)
    out = ROOT / "benchmarks/results/provenance_scale.json"
    result = {
        "n": 1_000_000,
        "file_bytes": SIZE,
        "versions": versions(),
        "hardware": hardware(torch.device("cpu")),
        "cores": os.cpu_count(),  # what the commands use; the threads are torch's
        "load_average_before": round(os.getloadavg()[0], 2),
        "model_signing": beside_model_signing(folder, sys.argv[2]) if len(sys.argv) > 2 else None,
        "scale": {},
    }
    for count in (10_000, 100_000, 1_000_000):
        result["scale"] |= scale(folder, count)
    result["load_average_after"] = round(os.getloadavg()[0], 2)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    if sys.argv[1] == "--run":
        run(sys.argv[2:])
    else:
        main()
