"""How many of the project's own poisons `match` finds, stored as PNG and JPEG, mirrored or not; and its false alarms.

    python benchmarks/match_recall.py FOLDER [SHARED]

Crafts the poisons in FOLDER (kept, and used again): 64 targets each, l-inf at most 16/255, and with a watermark of
opacity 0.3, against frogs and planes (a cut of CIFAR-10) and dog against fish. They are looked up among all 60,000
pictures of CIFAR-10, and all of dog against fish. False alarms are counted on the test pictures of both, looked
up among the training pictures. CIFAR-10 holds real near-duplicates: what is found there is drawn in FOLDER and judged by eye
(benchmarks/near_duplicates.json, by the numbers of the test pictures); what nobody has judged counts as false.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from poisonfrogs import Audit, data, journal, match, run_audit, wilson
from poisonfrogs.audit import hardware, versions
from poisonfrogs.images import Images

ROOT = Path(__file__).parent.parent
STORED = ("png", "jpeg:95", "jpeg:85", "jpeg:75")
OPACITY = 0.3


def audits(folder: Path, shared: Path) -> dict[str, Audit]:
    """The audits whose poisons are looked up."""
    common = {"targets": 64, "eps": 16 / 255, "passes": 30, "cache": folder / "cache"}
    cifar = {"data": Path("frogs-and-planes"), "view": "squash", "size": 96, **common}
    dogs = {"data": shared / "data/dogfish", **common}
    return {
        "cifar-linf": Audit(**cifar, out=folder / "cifar-linf"),
        "cifar-mark": Audit(**cifar, out=folder / "cifar-mark", watermark=OPACITY),
        "dogfish-linf": Audit(**dogs, out=folder / "dogfish-linf"),
        "dogfish-mark": Audit(**dogs, out=folder / "dogfish-mark", watermark=OPACITY),
    }


def stored(audit: Audit, store: str, mirrored: bool, folder: Path) -> dict[str, dict[str, str]]:
    """The poisons of an audit as files of `folder`; the id of each with its base's and its target's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    truth = {}
    for row in journal.rows(audit.out / "journal.jsonl"):
        for file, base in zip(row["poison_files"], row["base_ids"], strict=True):
            image = Image.open(audit.out / file).convert("RGB")
            image = ImageOps.mirror(image) if mirrored else image
            name = f"{Path(file).stem}{'.png' if store == 'png' else '.jpg'}"
            options = (
                {"format": "PNG"} if store == "png" else {"format": "JPEG", "quality": int(store.partition(":")[2])}
            )
            image.save(folder / name, **options)
            truth[name] = {"base": base, "target": row["target_id"]}
    return truth


def found(
    truth: dict[str, dict[str, str]], folder: Path, known: Images, places: dict[str, set[int]]
) -> dict[str, object]:
    """How many are found with the right base, and of those blends, the other picture and the error of the opacity."""
    images = data.pictures(folder)[0]
    matches = match.match(images, known)
    right, marks, errors, wrong = 0, 0, [], []
    for finding in matches.findings:
        one = truth[images.ids[finding.row]]
        hit = finding.kind in match.SUSPICIOUS and finding.known in places[one["base"]]
        right += hit
        if not hit:
            wrong.append(images.ids[finding.row])
        if hit and finding.kind == "blend":
            marks += finding.other in places[one["target"]]
            errors.append(abs(finding.comparison.opacity - OPACITY))
    low, high = wilson(right, len(truth))
    return {
        "n": len(truth),
        "found": right,
        "ci95": [round(low, 4), round(high, 4)],
        "kinds": {kind: count for kind, count in matches.counts().items() if count},
        "another_base": wrong,
        "other_right": marks,
        "opacity_error": round(float(np.median(errors)), 4) if errors else None,
    }


def places(audit: Audit, pixels: dict[bytes, set[int]]) -> dict[str, set[int]]:
    """Where each picture of an audit's data lies among the known ones: by its pixels, since files differ."""
    dataset = data.load(audit.data)
    images = data.joined(dataset.train, dataset.test)
    return {name: pixels[images[i].tobytes()] for i, name in enumerate(images.ids)}


def by_pixels(known: Images) -> dict[bytes, set[int]]:
    numbers: dict[bytes, set[int]] = {}
    for i in range(len(known)):
        numbers.setdefault(known[i].tobytes(), set()).add(i)
    return numbers


def false_alarms(dataset: data.DataSet, judged: dict[str, bool], sheet: Path) -> dict[str, object]:
    """Test pictures that are called copies of training pictures, and those that are none by eye."""
    started = time.perf_counter()
    matches = match.match(dataset.test, dataset.train)
    alarms = [one for one in matches.findings if one.kind in match.SUSPICIOUS]
    draw(alarms, dataset, sheet)
    names = {dataset.test.ids[one.row]: one.kind for one in alarms}
    false = [name for name in names if not judged.get(name, False)]
    low, high = wilson(len(false), len(dataset.test))
    return {
        "n": len(dataset.test),
        "against": len(dataset.train),
        "called_copies": names,
        "false": false,
        "false_rate": round(len(false) / len(dataset.test), 6),
        "ci95": [round(low, 6), round(high, 6)],
        "seconds": round(time.perf_counter() - started, 1),
    }


def draw(alarms: list[match.Finding], dataset: data.DataSet, sheet: Path) -> None:
    """Each test picture beside what it is said to be a copy of (and of what is blended in), in rows of eight."""
    side, across = 64, 8
    page = Image.new("RGB", (across * (3 * side + 8), max(-(-len(alarms) // across), 1) * (side + 8)), "white")
    for i, one in enumerate(alarms):
        shown = [dataset.test[one.row], dataset.train[one.known]]
        if one.mirrored:
            shown[1] = ImageOps.mirror(shown[1])
        if one.other is not None:
            n = len(dataset.train)
            shown.append(dataset.train[one.other] if one.other < n else dataset.test[one.other - n])
        for j, image in enumerate(shown):
            page.paste(image.resize((side, side)), (i % across * (3 * side + 8) + j * side, i // across * (side + 8)))
    page.save(sheet)


def main() -> None:
    folder = Path(sys.argv[1])
    shared = Path(sys.argv[2] if len(sys.argv) > 2 else os.environ.get("POISONFROGS_SHARED", "../shared"))
    cifar, dogs = data.load(shared / "data/cifar10/plain_text"), data.load(shared / "data/dogfish")
    judged = json.loads((ROOT / "benchmarks/near_duplicates.json").read_text())
    rows: dict[str, dict[str, object]] = {}
    for images, kind in (
        (data.joined(cifar.train, cifar.test), "cifar"),
        (data.joined(dogs.train, dogs.test), "dogfish"),
    ):
        pixels = by_pixels(images)
        for name, audit in audits(folder, shared).items():
            if not name.startswith(kind):
                continue
            run_audit(audit)
            where = places(audit, pixels)
            for store in STORED:
                for mirrored in (False, True):
                    truth = stored(audit, store, mirrored, folder / "stored")
                    label = f"{name} {store}{' mirrored' if mirrored else ''}"
                    rows[label] = found(truth, folder / "stored", images, where)
                    print(label, rows[label], flush=True)
    alarms = {
        "cifar10": false_alarms(cifar, judged["cifar10"], folder / "cifar10.png"),
        "dogfish": false_alarms(dogs, judged["dogfish"], folder / "dogfish.png"),
    }
    result = {
        "n": sum(int(str(row["n"])) for row in rows.values()),
        "versions": versions(),
        "hardware": hardware(torch.device("cpu")),
        "poisons": rows,
        "false_alarms": alarms,
    }
    (ROOT / "benchmarks/results/match_recall.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(alarms, indent=1))


if __name__ == "__main__":
    main()
