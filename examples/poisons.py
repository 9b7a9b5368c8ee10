"""What the worked examples share: a folder of pictures, poisons that an audit made against it, and the command line."""

import shlex
from pathlib import Path

from poisonfrogs import Audit, load_data, run_audit
from poisonfrogs.cli import main
from poisonfrogs.journal import Row, rows

TRAIN, TEST = 30, 12  # pictures a class: enough to see it work


def pictures(folder: Path) -> Path:
    """FOLDER/pictures/train|val/airplane|frog/NNN.png, a few of the bundled ones."""
    data = load_data("frogs-and-planes")
    for split, images, count in (("train", data.train, TRAIN), ("val", data.test, TEST)):
        for label, name in enumerate(data.classes):
            place = folder / "pictures" / split / name
            place.mkdir(parents=True)
            for i in (images.labels == label).nonzero()[0][:count]:
                images[int(i)].save(place / f"{i:03d}.png")
    return folder / "pictures"


def poisons(data: Path, out: Path, watermark: float = 0.0) -> list[Row]:
    """Two poisoned frogs that are to turn two planes into frogs: a line of the journal each."""
    run_audit(
        Audit(
            data=data,
            out=out,
            view="squash",
            size=64,
            targets=2,
            target_class="airplane",
            base_class="frog",
            watermark=watermark,
            passes=10,  # enough to be found, not to win
            precision="fp32",
            threads=1,  # so little work is done soonest by one
        )
    )
    return rows(out / "journal.jsonl")


def command(*arguments: object) -> int:
    """Run a command of poisonfrogs as it would be typed, and return its exit code."""
    print("$ poisonfrogs", shlex.join(map(str, arguments)))
    code = main([*map(str, arguments)])
    print(f"(exit code {code})\n")
    return code
