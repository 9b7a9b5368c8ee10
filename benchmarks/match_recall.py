"""How many of the project's own poisons `match` finds, stored as PNG and JPEG, mirrored or not; and its false alarms.

    python benchmarks/match_recall.py FOLDER [SHARED]

Crafts the poisons in FOLDER (kept, and used again): 64 targets each, l-inf at most 16/255, and with a watermark of
opacity 0.3, against frogs and planes (a cut of CIFAR-10) and dog against fish. The latter also as they would be, had
only their base or only what is blended in been mirrored first. They are looked up among all 60,000
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
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from poisonfrogs import Audit, data, journal, match, run_audit, wilson
from poisonfrogs.images import Images
from poisonfrogs.pipeline import hardware, versions

ROOT = Path(__file__).parent.parent
# a way to store pictures, with what Pillow is told
QUALITY: dict[str, dict[str, int]] = {
    "png": {},
    "jpeg:95": {"quality": 95},
    "jpeg:85": {"quality": 85},
    "jpeg:75": {"quality": 75},
}
OPACITY = 0.3


def audits(folder: Path, shared: Path) -> dict[str, Audit]:
    """The audits whose poisons are looked up."""
    common = {
        "targets": 64,
        "eps": 16 / 255,
        "passes": 30,
        "precision": "fp32",
        "threads": 1,
        "cache": folder / "cache",
    }
    cifar = {"data": Path("frogs-and-planes"), "view": "squash", "size": 96, **common}
    dogs = {"data": shared / "data/dogfish", **common}
    return {
        "cifar-linf": Audit(**cifar, out=folder / "cifar-linf"),
        "cifar-mark": Audit(**cifar, out=folder / "cifar-mark", watermark=OPACITY),
        "dogfish-linf": Audit(**dogs, out=folder / "dogfish-linf"),
        "dogfish-mark": Audit(**dogs, out=folder / "dogfish-mark", watermark=OPACITY),
    }


def ways(image: Image.Image) -> dict[str, tuple[Image.Image, dict[str, int]]]:
    """A picture as it may be stored, with what Pillow needs to store it; the last two are known not to be found."""
    found = {store: (image, options) for store, options in QUALITY.items()}
    found |= {f"{store} mirrored": (ImageOps.mirror(image), options) for store, options in QUALITY.items()}
    width, height = image.size
    cropped = image.crop((width // 16, height // 16, width - width // 16, height - height // 16))
    return found | {"png cropped by a sixteenth": (cropped, {}), "png rotated by 5 degrees": (image.rotate(5), {})}


def one_mirrored(poison: Image.Image, base: Image.Image, target: Image.Image, *, first: bool) -> Image.Image:
    """The poison's own perturbation on a blend whose base (`first`), or else whose target, is mirrored."""
    mark = target.resize(base.size, Image.Resampling.BICUBIC)
    pictures = (ImageOps.mirror(base), mark) if first else (base, ImageOps.mirror(mark))
    as_it_was, turned = (np.asarray(Image.blend(*pair, OPACITY), dtype=int) for pair in ((base, mark), pictures))
    return Image.fromarray(np.clip(turned + np.asarray(poison, dtype=int) - as_it_was, 0, 255).astype(np.uint8))


def stored(audit: Audit, folder: Path) -> dict[str, dict[str, str]]:
    """The poisons of an audit as files of `folder`, in a folder a way to store them; each with its base and its target."""
    shutil.rmtree(folder, ignore_errors=True)
    truth = {}
    dataset = data.load(audit.data)
    clean = {name: images[i] for images in (dataset.train, dataset.test) for i, name in enumerate(images.ids)}
    for number, row in enumerate(journal.rows(audit.out / "journal.jsonl")):
        for file, base in zip(row["poison_files"], row["base_ids"], strict=True):
            image = Image.open(audit.out / file).convert("RGB")
            made = ways(image)
            if audit.watermark:
                turned = one_mirrored(image, clean[base], clean[row["target_id"]], first=number % 2 == 0)
                made |= {f"{store} one mirrored": (turned, options) for store, options in QUALITY.items()}
            for way, (picture, options) in made.items():
                name = f"{way}/{Path(file).stem}{'.jpg' if options else '.png'}"
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                picture.save(folder / name, **options)
                truth[name] = {"base": base, "target": row["target_id"]}
    return truth


def found(
    truth: dict[str, dict[str, str]], folder: Path, known: Images, places: dict[str, set[int]]
) -> dict[str, object]:
    """By the way they are stored: how many are found with the right base; of blends also the other picture and opacity."""
    images = data.pictures(folder)[0]
    by_row = {finding.row: finding for finding in match.match(images, known).findings}
    rows = {}
    for way in sorted({name.partition("/")[0] for name in truth}):
        mine = [i for i, name in enumerate(images.ids) if name.startswith(f"{way}/")]
        rows[way] = counted([(by_row.get(i), truth[images.ids[i]]) for i in mine], places)
    return rows


def counted(pairs: list[tuple[match.Finding | None, dict[str, str]]], places: dict[str, set[int]]) -> dict[str, object]:
    suspicious = [(one, true) for one, true in pairs if one and one.kind in match.SUSPICIOUS]
    right = [(one, true) for one, true in suspicious if one.known in places[true["base"]]]
    blends = [(one, true) for one, true in right if one.kind == "blend"]
    low, high = wilson(len(right), len(pairs))
    return {
        "n": len(pairs),
        "found": len(right),
        "ci95": [round(low, 4), round(high, 4)],
        "another_base": len(suspicious) - len(right),
        "blends": len(blends),
        "other_right": sum(one.other in places[true["target"]] for one, true in blends),
        "opacity_error": round(float(np.median([abs(one.opacity - OPACITY) for one, _ in blends])), 4)
        if blends
        else None,
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
    side, across = 32, 8
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
    rows: dict[str, dict[str, Any]] = {}
    for images, kind in (
        (data.joined(cifar.train, cifar.test), "cifar"),
        (data.joined(dogs.train, dogs.test), "dogfish"),
    ):
        pixels = by_pixels(images)
        for name, audit in audits(folder, shared).items():
            if not name.startswith(kind):
                continue
            if not (audit.out / "summary.json").exists():
                run_audit(audit)
            where = places(audit, pixels)
            ways = found(stored(audit, folder / "stored"), folder / "stored", images, where)
            rows |= {f"{name} {way}": row for way, row in ways.items()}
            print(json.dumps(ways, indent=1), flush=True)
    alarms = {
        "cifar10": false_alarms(cifar, judged["cifar10"], ROOT / "benchmarks/near_duplicates.png"),
        "dogfish": false_alarms(dogs, judged["dogfish"], folder / "dogfish.png"),
    }
    result = {
        "n": sum(row["n"] for row in rows.values()),
        "versions": versions(),
        "hardware": hardware(torch.device("cpu")),
        "poisons": rows,
        "false_alarms": alarms,
    }
    (ROOT / "benchmarks/results/match_recall.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(alarms, indent=1))


if __name__ == "__main__":
    main()
