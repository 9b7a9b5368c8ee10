"""Features of 50,000 pictures of mixed sizes and formats, in bounded memory, resumed after a kill -9.

    python benchmarks/features_50k.py FOLDER [COUNT]

Makes the pictures in FOLDER (about 2 GB; kept, and used again), then computes their features in a process of
its own that is killed in the middle and started again, and beside it those of a tenth of them, from nothing. The
network is EfficientNet-Lite0 at 64 × 64 pixels (--view squash). The long form takes about 15 minutes
on 2 cores; the result is benchmarks/results/features_50k.json.
"""

import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from poisonfrogs import extract_features, load_data, load_model
from poisonfrogs.pipeline import hardware, versions

ROOT = Path(__file__).parent.parent
FORMATS = (".jpg", ".jpg", ".jpg", ".jpg", ".png", ".webp")


def make(folder: Path, count: int) -> None:
    """Crops of a few textures, 40 to 1,000 pixels a side, every one another picture."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (25, 25, 3), dtype=np.uint8)) for _ in range(16)]
    textures = [picture.resize((2000, 2000), Image.Resampling.BICUBIC) for picture in coarse]
    for i in range(count):
        path = folder / ("train" if i % 10 else "val") / f"class{i // 10 % 2}" / f"{i:06d}{FORMATS[i % len(FORMATS)]}"
        width, height = (int(40 * 25 ** rng.random()) for _ in range(2))
        left, top = (int(rng.integers(0, 2000 - side)) for side in (width, height))
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = textures[i % 16].crop((left, top, left + width, top + height))
        picture.save(path, **({"compress_level": 1} if path.suffix == ".png" else {"quality": 80}))


def work(folder: Path, cache: Path) -> None:
    """The process that is measured; a line of JSON for every batch."""
    torch.set_num_threads(2)
    started = time.perf_counter()
    net, data = load_model("tf_efficientnet_lite0", view="squash", size=64), load_data(folder)
    loaded = time.perf_counter() - started

    def tell(more: int) -> None:
        print(json.dumps({"more": more}), flush=True)

    matrices = [extract_features(net, images, cache=cache, progress=tell).matrix for images in (data.train, data.test)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    done = {
        "n": sum(map(len, matrices)),
        "peak_rss_mib": round(peak),
        "matrix_mib": round(sum(matrix.nbytes for matrix in matrices) / 2**20),
        "seconds": round(time.perf_counter() - started, 1),
        "seconds_until_hashed": round(loaded, 1),
    }
    print(json.dumps(done), flush=True)


def run(folder: Path, cache: Path, kill_after: float = float("inf")) -> tuple[list[dict[str, float]], bool]:
    """The lines that a process wrote, and whether it was killed."""
    command = [sys.executable, __file__, "--work", str(folder), str(cache)]
    lines: list[dict[str, float]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(json.loads(line))
            if sum(one.get("more", 0) for one in lines) > kill_after:
                process.kill()
                return lines, True
    return lines, False


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50_000
    small, large, cache = folder / str(count // 10), folder / str(count), folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    for where, pictures in ((small, count // 10), (large, count)):
        make(where, pictures)
    few = run(small, cache / "few")[0][-1]
    before, killed = run(large, cache / "many", kill_after=count / 2)
    lines, _ = run(large, cache / "many")
    again, _ = run(large, cache / "many")
    result = {
        "n": lines[-1]["n"],
        "versions": versions(),
        "hardware": hardware(torch.device("cpu")),
        "peak_rss_mib": lines[-1]["peak_rss_mib"],
        "matrix_mib": lines[-1]["matrix_mib"],
        "seconds_after_the_kill": lines[-1]["seconds"],
        "killed_with_9": killed,
        "computed_before_the_kill": sum(one.get("more", 0) for one in before),
        "found_after_the_kill": lines[0]["more"],
        "seconds_from_the_cache": again[-1]["seconds"],
        "a_tenth": few,
    }
    out = ROOT / "benchmarks/results/features_50k.json" if count == 50_000 else folder / "result.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        work(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
