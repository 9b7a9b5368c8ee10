"""What cannot be used: a row a case, what it prints, how it ends, what is left on the disk."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import toy
from PIL import Image
from safetensors.torch import save_file
from test_pictures import exif, png, saved

from poisonfrogs import audit, journal
from poisonfrogs.cli import main

Prepare = Callable[[Path], object]


class Case(NamedTuple):
    """`more` arguments follow `audit toy --model toy:factory --out run`; the last of an option counts."""

    more: str
    says: tuple[str, ...]
    prepare: Prepare = lambda here: None


class Payload:
    """Unpickling it would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def weights(name: str, change: Callable[[dict], dict] = lambda state: state) -> Prepare:
    def prepare(here: Path) -> None:
        state = change(toy.factory().state_dict())
        save_file(state, here / name) if name.endswith(".safetensors") else torch.save(state, here / name)

    return prepare


def with_nan(state: dict) -> dict:
    state["second.bias"] = torch.full((16,), float("nan"))
    return state


def file(name: str, content: bytes = b"what the user wrote\n") -> Prepare:
    def prepare(here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)

    return prepare


def without(*names: str) -> Prepare:
    return lambda here: [shutil.rmtree(here / "toy" / name) for name in names]


LAYOUTS = "expected a folder with train/CLASS/*.jpg"
CASES = {
    # the data
    "a missing path": Case("", ("toy does not exist", LAYOUTS), lambda here: shutil.rmtree(here / "toy")),
    "a file of no known kind": Case("", ("toy is a file of no known kind", LAYOUTS), lambda here: (shutil.rmtree(here / "toy"), (here / "toy").write_text("x"))),
    "an empty class": Case("", ("class 'green' of toy has no readable training picture", "remove the class"), lambda here: (here / "toy/train/green").mkdir()),
    "one class only": Case("", ("toy holds one class ('red')", "needs at least two"), without("train/blue", "val/blue")),
    "a class with broken pictures only": Case("", ("class 'red' of toy has no readable test picture",), lambda here: [p.write_bytes(p.read_bytes()[:99]) for p in (here / "toy/val/red").iterdir()]),
    # the model
    "an unknown model": Case("--model mobilnetv2_100", ("no model is called 'mobilnetv2_100'", "near names: mobilenetv2_100", "expected a timm or torchvision name")),
    "a model like no other": Case("--model qqqqqqqqqq", ("no model is called 'qqqqqqqqqq'", "near names: none")),
    "a module that is not there": Case("--model nowhere:factory", ("nowhere:factory cannot be imported", "expected module:function")),
    "a factory that is not there": Case("--model toy:nothing", ("toy:nothing cannot be imported", "expected module:function")),
    "a factory that cannot be called": Case("--model toy:not_callable", ("toy:not_callable is a int", "expected a function or class")),
    "no weights file": Case("--weights gone.pth", ("no weights file gone.pth",)),
    "weights named twice": Case("--model toy:factory=a.pth --weights b.pth", ("a.pth", "b.pth", "name one")),
    "a checkpoint with the wrong keys": Case("--weights w.pth", ("w.pth do not fit the model", "first.weight", "give this model's own weights"), weights("w.pth", lambda state: {f"encoder.{k}": v for k, v in state.items()})),
    "a checkpoint of another size": Case("--weights w.safetensors", ("w.safetensors do not fit the model", "second.bias"), weights("w.safetensors", lambda state: {**state, "second.bias": torch.zeros(3)})),
    "a pickle with code": Case("--weights w.pth", ("w.pth holds more than tensors and could run code", "refused", "safetensors"), lambda here: torch.save({"state_dict": Payload()}, here / "w.pth")),
    "a text for weights": Case("--weights w.pth", ("w.pth",), file("w.pth")),
    "a text for safetensors": Case("--weights w.safetensors", ("w.safetensors is not a safetensors file",), file("w.safetensors")),
    "nan weights": Case("--weights w.pth", ("not finite numbers (in second.bias)", "use a sound checkpoint"), weights("w.pth", with_nan)),
    "nan features": Case("--model toy:Unfinite", ("toy:Unfinite returned features that are not finite", "check its weights")),
    "a size the network cannot take": Case("--size 3", ("does not accept pictures of (3, 3)", "try another --size")),
    "a device that is not there": Case("--device abacus", ("abacus", "expected auto, cpu or cuda")),
    # numbers
    "eps above 1": Case("--eps 2", ("--eps 2.0 is out of range", "from 0 to 1, such as 8/255, or none")),
    "eps in levels": Case("--eps 8", ("--eps 8.0 is out of range", "such as 8/255")),
    "eps below 0": Case("--eps -1/255", ("--eps -0.00", "is out of range")),
    "eps not a number": Case("--eps nan", ("--eps nan is out of range",)),
    "eps divided by zero": Case("--eps 8/0", ("--eps", "'8/0' is no number", "such as 8/255")),
    "eps in words": Case("--eps abc", ("--eps", "'abc' is no number", "such as 8/255")),
    "beta below 0": Case("--eps none --beta -1", ("--beta -1.0 is out of range",)),
    "no poisons": Case("--poisons 0", ("--poisons 0 is out of range", "a number from 1")),
    "more poisons than bases": Case("--poisons 13", ("--poisons 13 is more than the 12 training pictures", "a base of its own")),
    "no passes": Case("--passes 0", ("--passes 0 is out of range",)),
    "no targets": Case("--targets 0", ("--targets 0 is out of range", "or all")),
    "too many targets": Case("--targets 9", ("--targets 9 is more than the 8 test pictures",)),
    "a watermark that hides the base": Case("--watermark 1", ("--watermark 1.0 is out of range", "below 1")),
    "endless overshoot": Case("--overshoot inf", ("--overshoot inf is out of range",)),
    "no pixels": Case("--size 0", ("--size 0 is out of range", "pixels")),
    "no threads": Case("--threads 0", ("--threads 0 is out of range",)),
    "a rate in percent": Case("--fail-on 5", ("--fail-on 5.0 is out of range", "from 0 to 1, such as 0.05")),
    # targets and classes
    "a target that is not there": Case("--target val/red/99.png", ("--target val/red/99.png is no id of toy and no file", "such as val/")),
    "a target from the training set": Case("--target train/red/00.png", ("--target train/red/00.png is a training picture", "has not seen")),
    "a target outside without its class": Case("--target x.png", ("--target x.png lies outside toy", "--target-class"), lambda here: toy.picture((9, 9, 9), 1).save(here / "x.png")),
    "a target outside that is broken": Case("--target x.png --target-class red", ("--target x.png cannot be read", "give a whole picture"), file("x.png")),
    "a target that is broken": Case("--target val/red/00.png", ("--target val/red/00.png cannot be read", "give a whole picture"), file("toy/val/red/00.png")),
    "a target that is empty": Case("--target val/red/00.png", ("--target val/red/00.png cannot be read (zero bytes)",), file("toy/val/red/00.png", b"")),
    "a target of another class": Case("--target val/red/00.png --target-class blue", ("--target val/red/00.png shows 'red'", "rules out")),
    "an unknown target class": Case("--target-class green", ("--target-class 'green' is no class of the data", "one of blue, red")),
    "an unknown base class": Case("--base-class none", ("--base-class 'none' is no class of the data", "one of blue, red")),
    "one class for both": Case("--target-class red --base-class red", ("name the same class", "needs two")),
    # the victim
    "an unknown head": Case("--head svm", ("--head 'svm' is unknown", "logistic:C with C > 0")),
    "a head without its strength": Case("--head logistic:0", ("--head 'logistic:0' is unknown", "logistic:C with C > 0")),
    "a victim module that is not there": Case("--victim nowhere:train", ("nowhere:train cannot be imported", "expected module:function")),
    "a victim that is not there": Case("--victim toy:nothing", ("toy:nothing cannot be imported", "expected module:function")),
    "a victim that cannot be called": Case("--victim toy:not_callable", ("toy:not_callable is a int", "expected a function or class")),
    "two victims": Case("--victim toy:victim --head logistic:1", ("both name a victim", "give one")),
    "an unknown way to store": Case("--store webp", ("--store 'webp' is not a way to store", "expected png, or jpeg:Q")),
    "a jpeg without quality": Case("--store jpeg:0", ("--store 'jpeg:0'", "Q from 1 to 100")),
    # the run folder
    "out is a file": Case("", ("--out run is a file", "expected a folder"), file("run")),
    "out holds something else": Case("", ("--out run is not empty and holds no run", "choose another"), file("run/thesis.tex")),
    "a broken plan": Case("", ("run/plan.json", "choose another --out"), file("run/plan.json", b'{"schema_version": 1,')),
    "a plan of another version": Case("", ("run/plan.json", "choose another --out"), file("run/plan.json", b'{"schema_version": 99}')),
    # the command line
    "an unknown option": Case("--epz 3", ("--epz", "near names: --eps", "poisonfrogs --help")),
    "an option without its value": Case("--seed", ("--seed", "poisonfrogs --help")),
    "a seed that is no number": Case("--seed 1.5", ("--seed", "'1.5' is no whole number")),
    "targets that are no number": Case("--targets many", ("--targets", "'many' is no whole number")),
    "an unknown view": Case("--view centre", ("centre", "--view", "'model', 'squash'")),
    "two data sets": Case("other", ("other", "poisonfrogs --help")),
}  # fmt: skip


@pytest.fixture
def here(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the folder `toy` in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(cache: Path, *more: str) -> list[str]:
    return ["audit", "toy", "--model", "toy:factory", "--out", "run", "--cache", str(cache), "--threads", "1", *more]


def quick(cache: Path, *more: str) -> list[str]:
    """A whole audit in a tenth of a second."""
    return command(cache, "--passes", "2", "--head", "logistic:1", "--targets", "all", *more)


def on_disk(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content; folders as None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


def refused(capsys: pytest.CaptureFixture[str], *fragments: str) -> None:
    """One line on stderr with all of it, nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("poisonfrogs: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    for fragment in fragments:
        assert fragment in err


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_with_one_line_and_nothing_written(
    name: str, here: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    case.prepare(here)
    before = on_disk(here)
    assert main(command(cache, *case.more.split())) == 2
    refused(capsys, *case.says)
    assert on_disk(here) == before
    assert not (here / "it-ran").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Expected one of {audit, demo}"),
        (["adit"], "adit; near names: audit"),
        (["audit"], "Missing from poisonfrogs audit"),
        (["demo", "--sead", "1"], "--sead, 1; near names: --seed"),
        (["audit", "no\nsuch\x1b[2Jpath"], r"no\nsuch\x1b[2Jpath does not exist"),
        (["audit", os.fsdecode(b"\xff")], r"\udcff does not exist"),
        (["audit", "x" * 5000], "File name too long"),
    ],
)
def test_other_commands_are_refused_with_one_line_too(
    arguments: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = on_disk(here)
    assert main(arguments) == 2
    refused(capsys, says)
    assert on_disk(here) == before


def test_a_run_of_another_plan_is_refused_and_left_as_it_is(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(quick(cache)) == 0
    before = on_disk(here / "run")
    for option, says in {
        "--seed=1": "audit.seed was 0, is now 1",
        "--eps=4/255": "audit.eps was 0.03",
        "--model=toy:Toy": "audit.model was",
    }.items():
        capsys.readouterr()
        assert main(quick(cache, option)) == 2
        refused(capsys, "run holds a run of another plan", says, "choose another --out, or delete it")
    toy.picture((1, 2, 3), 1).save(here / "toy" / "train" / "red" / "00.png")
    assert main(quick(cache)) == 2
    refused(capsys, "run holds a run of another plan", "data.fingerprint")
    assert on_disk(here / "run") == before


def test_a_folder_that_another_run_holds_is_refused(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "run").mkdir()
    with journal.one_writer(here / "run"):
        assert main(quick(cache)) == 2
    refused(capsys, "run is being written by another run", "choose another --out")
    assert main(quick(cache)) == 0


# --- a full disk


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as if the disk were full. (Python ignores SIGXFSZ: writing fails.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("stage", ["plan.json", "poisons", "journal.jsonl"])
def test_a_full_disk_stops_the_run_and_the_same_command_goes_on(
    stage: str, here: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(14):  # 8 and 14 targets: two groups
        toy.picture((170, 80, 60), 500 + number).save(here / "toy" / "val" / "red" / f"more{number}.png")
    assert main(quick(cache)) == 0
    whole = on_disk(here / "run")
    (here / "run").rename(here / "undisturbed")
    smallest_poison = min(len(content or b"") for name, content in whole.items() if name.endswith(".png"))
    room = {"plan.json": 300, "poisons": smallest_poison - 1, "journal.jsonl": len(whole["journal.jsonl"] or b"") - 1}
    hold = journal.one_writer
    writing = "write_json" if stage == "plan.json" else "_run_groups"

    def cramped(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            with room_for(room[stage]):
                function(*arguments)

        return call

    with monkeypatch.context() as patched:
        module = journal if stage == "plan.json" else audit
        patched.setattr(module, writing, cramped(getattr(module, writing)))
        capsys.readouterr()
        assert main(quick(cache)) == 2
    refused(capsys, "File too large", "the same command goes on where it was")
    assert hold is journal.one_writer
    assert not list((here / "run").rglob("*.partial"))
    assert not (here / "run" / "summary.json").exists()
    assert ("plan.json" in on_disk(here / "run")) == (stage != "plan.json")
    assert main(quick(cache)) == 0
    now = on_disk(here / "run")
    same = [name for name in whole if name.startswith(("journal", "poisons"))]
    assert {name: now[name] for name in same} == {name: whole[name] for name in same}
    assert set(now) == set(whole)


def test_a_full_cache_stops_the_run_before_anything_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with room_for(8192):
        assert main(quick(here / "cold")) == 2
    refused(capsys, "cache", "choose another --cache")
    assert not (here / "run").exists()
    assert main(quick(here / "cold")) == 0


# --- Ctrl-C


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(14):
        toy.picture((170, 80, 60), 500 + number).save(here / "toy" / "val" / "red" / f"more{number}.png")
    assert main(quick(cache)) == 0
    whole = on_disk(here / "run")
    shutil.rmtree(here / "run")
    run, calls = audit.trial.run, []

    def interrupted(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return run(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(audit.trial, "run", interrupted)
        capsys.readouterr()
        assert main(quick(cache)) == 130
    refused(capsys, "stopped; the same command goes on where it was")
    assert 0 < len((here / "run" / "journal.jsonl").read_bytes()) < len(whole["journal.jsonl"] or b"")
    assert main(quick(cache)) == 0
    now = on_disk(here / "run")
    same = [name for name in whole if name.startswith(("journal", "poisons"))]
    assert {name: now[name] for name in same} == {name: whole[name] for name in same}


def test_a_fault_in_the_user_s_own_code_shows_its_traceback_and_is_not_a_finding(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "victim", lambda images, labels, *, seed: 1 / 0)
    assert main(command(cache, "--passes", "2", "--victim", "toy:victim")) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


# --- reported, counted, skipped; converted and said


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
