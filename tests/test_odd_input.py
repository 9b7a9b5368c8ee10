"""What is not quite as expected and does not stop an audit: skipped and said, converted and said, or just used."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import toy
from poisonfrogs.cli import main
from runs import quick
from test_pictures import exif, png, saved


def test_pictures_that_cannot_be_read_are_reported_counted_and_skipped(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    red, blue = here / "toy" / "train" / "red", here / "toy" / "val" / "blue"
    whole = (red / "00.png").read_bytes()
    (red / "torn.png").write_bytes(whole[: len(whole) // 2])
    (red / "empty.png").write_bytes(b"")
    (red / "bomb.png").write_bytes(png(60000, 60000, 8, 2, b"\0"))
    (red / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    (red / "folder.jpg").mkdir()
    (blue / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(blue / "pipe.png")
    (blue / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert main(quick(cache, "--format", "json")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    checks = {check["name"]: check["message"] for check in json.loads(out)["checks"]}
    assert checks["skipped_pictures"].startswith("8 pictures could not be read")
    plan = json.loads((here / "run" / "plan.json").read_bytes())["data"]
    reasons = {
        "train/red/torn.png": "truncated",
        "train/red/empty.png": "zero bytes",
        "train/red/bomb.png": "decompression bomb",
        "train/red/eps.png": "not a picture",
        "train/red/folder.jpg": "not a file",
        "val/blue/gone.jpg": "a broken link",
        "val/blue/pipe.png": "not a file",
        "val/blue/drawing.svg": "not a picture",
    }
    assert plan["skipped"].keys() == reasons.keys()
    for identity, reason in reasons.items():
        assert reason in plan["skipped"][identity]
    assert (plan["n_train"], plan["n_test"]) == (24, 8)
    assert main(quick(cache)) == 0  # the same plan again: reasons are the same every time


def test_conversions_are_counted_in_the_plan(here: Path, cache: Path) -> None:
    red = here / "toy" / "train" / "red"
    picture = Image.open(red / "00.png")
    frames = {"save_all": True, "append_images": [picture.rotate(90)]}
    for name, content in {
        "cmyk.jpg": saved(picture.convert("CMYK"), "JPEG"),
        "deep.png": saved(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257), "PNG"),
        "palette.png": saved(picture.quantize(16), "PNG"),
        "other_palette.png": saved(picture.quantize(32), "PNG"),
        "moving.png": saved(picture, "PNG", **frames),
        "rotated.jpg": saved(picture, "JPEG", exif=exif(6)),
    }.items():
        (red / name).write_bytes(content)
    assert main(quick(cache)) == 0
    plan = json.loads((here / "run" / "plan.json").read_bytes())["data"]
    assert plan["skipped"] == {}
    assert plan["conversions"] == {
        "16-bit scaled to 8": 1,
        "CMYK converted to RGB": 1,
        "animated: first frame taken": 1,
        "palette converted to RGB": 2,
        "rotated as its EXIF says": 1,
    }


def test_odd_names_and_links_go_all_the_way(here: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = os.fsdecode(b"<script>alert(1)<\xff>\n\x1b[2J")
    shutil.move(here / "toy", here / "store")
    for split in ("train", "val"):
        for name in toy.CLASSES:
            folder = here / "toy" / split / (odd if name == "red" else name)
            folder.mkdir(parents=True)
            for number, file in enumerate(sorted((here / "store" / split / name).iterdir())):
                (folder / f"{odd}{number}.png").symlink_to(file)
    assert main(quick(cache, "--target-class", odd, "--base-class", "blue")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert "<script>alert(1)<\\udcff>\\n\\x1b[2J taken for blue" in out
    lines = (here / "run" / "journal.jsonl").read_text("ascii").splitlines()
    assert len(lines) == 4
    for line in lines:
        row = json.loads(line)
        assert row["target_class"] == odd
        assert (here / "toy" / row["target_id"]).is_file()
        assert all((here / "toy" / base).is_file() for base in row["base_ids"])
    assert main(quick(cache, "--target", f"val/{odd}/{odd}2.png", "--out", "one")) == 0
