"""The report of as many trials as dogfish has test pictures: python benchmarks/report.py RUN

RUN is a finished audit of dogfish (its pictures are not ours to ship). Its trials are repeated, with copies of their pictures
under other names and confidences drawn at random, until there are 782; the page is written, and opened five times in headless
chromium at two widths. A minute on 2 cores; the result is benchmarks/results/report.json.
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Browser, sync_playwright

from poisonfrogs import journal, write_report
from poisonfrogs.pipeline import hardware, versions
from poisonfrogs.summary import counted

ROOT = Path(__file__).parent.parent
TRIALS, OPENINGS = 782, 5


def repeated(run: Path, out: Path) -> None:
    plan = json.loads((run / "plan.json").read_text())
    rows, trials, classes = journal.rows(run / "journal.jsonl"), plan["trials"], plan["data"]["classes"]
    for name in ("poisons", "pictures", "features"):
        shutil.copytree(run / name, out / name)
    chance = np.random.default_rng(0)
    many = [another(run, out, rows[i % len(rows)], i, classes, float(chance.beta(8, 1))) for i in range(TRIALS)]
    plan["trials"] = [trials[i % len(rows)] | {"trial_id": i, "group": i // 16} for i in range(TRIALS)]
    for group in range(1, -(-TRIALS // 16)):
        shutil.copy(run / "features/000000.safetensors", out / f"features/{group:06d}.safetensors")
    (out / "plan.json").write_text(json.dumps(plan))
    (out / "journal.jsonl").write_bytes(b"".join(map(journal.encode, many)))
    summary = json.loads((run / "summary.json").read_text())
    (out / "summary.json").write_text(json.dumps(summary | counted(many, classes)))


def another(run: Path, out: Path, row: journal.Row, number: int, classes: list[str], sure: float) -> journal.Row:
    row = row | {"trial_id": number, "group": number // 16, "target_id": f"{row['target_id']}#{number}"}
    for key in ("target_file", "base_files", "poison_files"):
        files = row[key] if isinstance(row[key], list) else [row[key]]
        copies = [f"{Path(file).parent}/copy-{number:06d}-{key}{Path(file).suffix}" for file in files]
        for file, copy in zip(files, copies, strict=True):
            shutil.copy(run / file, out / copy)
        row[key] = copies if isinstance(row[key], list) else copies[0]
    said = [sure if name == row["base_class"] else 1 - sure for name in classes]
    return row | {"probabilities": said, "success": sure > 0.5, "evasions": row["evasions"] if number < 3 else []}


def opened(browser: Browser, page: Path, width: int) -> float:
    """Milliseconds until everything has been loaded."""
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(page.as_uri(), wait_until="load")
    taken = tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    tab.close()
    return float(taken)


def main() -> None:
    result: dict[str, Any] = {"n": TRIALS}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        repeated(Path(sys.argv[1]), run)
        started = time.perf_counter()
        written = write_report(run)
        result |= {"seconds_to_write": round(time.perf_counter() - started, 1), "bytes": written.bytes}
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for width in (1280, 390):
                taken = [opened(browser, written.path, width) for _ in range(OPENINGS)]
                result[f"ms_to_open_at_{width}"] = {
                    "median": round(statistics.median(taken)),
                    "worst": round(max(taken)),
                }
            result["browser"] = f"chromium {browser.version}"
            browser.close()
    result |= {"openings": OPENINGS, "versions": versions(), "hardware": hardware(torch.device("cpu"))}
    (ROOT / "benchmarks/results/report.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
