"""Draw the pictures of a run for README: python scripts/draw_kills.py RUN DATA OUT.png

A column a trial: the target, the base, the poison, and their difference (magnified), with what the victim
calls the target without and with the poison.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from poisonfrogs import journal
from poisonfrogs.data import DataSet, Images, load

SIDE, GAP, LEFT, SHOWN, MAGNIFIED = 112, 10, 150, 6, 8


def main() -> None:
    run, data, out = Path(sys.argv[1]), load(sys.argv[2]), Path(sys.argv[3])
    rows = [row for row in journal.rows(run / "journal.jsonl") if row["eligible"]][:SHOWN]
    names = ["target", "base", "poison", f"difference x {MAGNIFIED}"]
    canvas = Image.new("RGB", (LEFT + len(rows) * (SIDE + GAP) + GAP, 4 * (SIDE + GAP) + 64), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for i, name in enumerate(names):
        draw.text((GAP, GAP + i * (SIDE + GAP) + SIDE // 2 - 8), name, "black", font)
    top = GAP + 4 * (SIDE + GAP)
    draw.text((GAP, top), "without the poison", "black", font)
    draw.text((GAP, top + 22), "with the poison", "black", font)
    for column, row in enumerate(rows):
        x = LEFT + column * (SIDE + GAP)
        for i, picture in enumerate(pictures(run, data, row)):
            canvas.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (x, GAP + i * (SIDE + GAP)))
        for line, key in enumerate(("control_probabilities", "probabilities")):
            said = int(np.argmax(row[key]))
            color = "#b00020" if data.classes[said] != row["target_class"] else "#00695c"
            draw.text((x, top + 22 * line), f"{data.classes[said]} {row[key][said]:.3f}", color, font)
    canvas.save(out, optimize=True)


def pictures(run: Path, data: DataSet, row: journal.Row) -> list[Image.Image]:
    base, poison = find(data.train, row["base_ids"][0]), Image.open(run / row["poison_files"][0]).convert("RGB")
    difference = np.asarray(poison, dtype=float) - np.asarray(base, dtype=float)
    shown = Image.fromarray(np.clip(128 + MAGNIFIED * difference, 0, 255).astype(np.uint8))
    return [find(data.test, row["target_id"]), base, poison, shown]


def find(images: Images, identity: str) -> Image.Image:
    return images[images.ids.index(identity)]


if __name__ == "__main__":
    main()
