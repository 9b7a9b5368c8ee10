"""What cannot be used: a row a case, what it prints, how it ends, what is left on the disk."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

import toy
from poisonfrogs import journal
from poisonfrogs.cli import main
from poisonfrogs.plan import Audit
from poisonfrogs.types import InputError
from runs import command, on_disk, quick, refused

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
    "a run among the data": Case("--out toy/train/red/run", ("would lie inside toy, which is only read",)),
    "a cache among the data": Case("--cache toy/cache", ("would lie inside toy, which is only read",)),
    "a cache in the run folder": Case("--cache run/cache", ("--cache run/cache would lie inside --out run",)),
    "a run in a folder that the data link to": Case(
        "--out elsewhere/run",
        ("--out elsewhere/run would lie inside toy, which is only read",),
        lambda here: ((here / "elsewhere").mkdir(), (here / "toy/train/red/more").symlink_to(here / "elsewhere")),
    ),
    "data where the run would put its own pictures": Case(
        "",
        ("the run would write into run/pictures, where DATA (toy) lies; choose another --out",),
        lambda here: (
            (here / "run").mkdir(),
            (here / "toy").rename(here / "run/pictures"),
            (here / "toy").symlink_to("run/pictures"),
        ),
    ),
    "pictures of the user's where the run would put its own": Case(
        "", ("--out run is not empty and holds no run; choose another folder",), file("run/pictures/base-000664.png")
    ),
    "a plan that is nested too deeply": Case(
        "", ("run/plan.json was not written by this version",), file("run/plan.json", b"[" * 100_000)
    ),
    "a pipe in the plan's place": Case(
        "",
        ("run/plan.json is no regular file; was the run folder changed?",),
        lambda here: ((here / "run").mkdir(), os.mkfifo(here / "run/plan.json")),
    ),
    "pictures that a table would put out of sight": Case(
        "",
        ("toy holds parquet files (train/meta.parquet) as well as pictures (train/blue/", "move one kind away"),
        file("toy/train/meta.parquet"),
    ),
    "an expected change of pictures without a budget": Case(
        "--eps none --robust jpeg:75-95", ("--robust and --eps none do not go together", "such as --eps 8/255")
    ),
    "an endless beta": Case("--eps none --beta inf", ("--beta inf is out of range; expected a number from 0",)),
    "a file of no known kind": Case(
        "",
        ("toy is a file of no known kind", LAYOUTS),
        lambda here: (shutil.rmtree(here / "toy"), (here / "toy").write_text("x")),
    ),
    "an empty class": Case(
        "",
        ("class 'green' of toy has no readable training picture", "remove the class"),
        lambda here: (here / "toy/train/green").mkdir(),
    ),
    "one class only": Case(
        "", ("toy holds one class ('red')", "needs at least two"), without("train/blue", "val/blue")
    ),
    "a class with broken pictures only": Case(
        "",
        ("class 'red' of toy has no readable test picture",),
        lambda here: [p.write_bytes(p.read_bytes()[:99]) for p in (here / "toy/val/red").iterdir()],
    ),
    # the model
    "an unknown model": Case(
        "--model mobilnetv2_100",
        ("no model is called 'mobilnetv2_100'", "near names: mobilenetv2_100", "expected a timm or torchvision name"),
    ),
    "a model like no other": Case("--model qqqqqqqqqq", ("no model is called 'qqqqqqqqqq'", "near names: none")),
    "a module that is not there": Case(
        "--model nowhere:factory", ("nowhere:factory cannot be imported", "expected module:function")
    ),
    "a factory that is not there": Case(
        "--model toy:nothing", ("toy:nothing cannot be imported", "expected module:function")
    ),
    "a factory that cannot be called": Case(
        "--model toy:not_callable", ("toy:not_callable is a int", "expected a function or class")
    ),
    "no weights file": Case("--weights gone.pth", ("no weights file gone.pth",)),
    "weights named twice": Case("--model toy:factory=a.pth --weights b.pth", ("a.pth", "b.pth", "name one")),
    "a checkpoint with the wrong keys": Case(
        "--weights w.pth",
        ("w.pth do not fit the model", "first.weight", "give this model's own weights"),
        weights("w.pth", lambda state: {f"encoder.{k}": v for k, v in state.items()}),
    ),
    "a checkpoint of another size": Case(
        "--weights w.safetensors",
        ("w.safetensors do not fit the model", "second.bias"),
        weights("w.safetensors", lambda state: {**state, "second.bias": torch.zeros(3)}),
    ),
    "a pickle with code": Case(
        "--weights w.pth",
        ("w.pth holds more than tensors and could run code", "refused", "safetensors"),
        lambda here: torch.save({"state_dict": Payload()}, here / "w.pth"),
    ),
    "a text for weights": Case("--weights w.pth", ("w.pth",), file("w.pth")),
    "a text for safetensors": Case(
        "--weights w.safetensors", ("w.safetensors is not a safetensors file",), file("w.safetensors")
    ),
    "nan weights": Case(
        "--weights w.pth", ("not finite numbers (in second.bias)", "use a sound checkpoint"), weights("w.pth", with_nan)
    ),
    "nan features": Case(
        "--model toy:Unfinite", ("toy:Unfinite returned features that are not finite", "check its weights")
    ),
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
    "more poisons than bases": Case(
        "--poisons 13", ("--poisons 13 is more than the 12 training pictures", "a base of its own")
    ),
    "no passes": Case("--passes 0", ("--passes 0 is out of range",)),
    "no targets": Case("--targets 0", ("--targets 0 is out of range", "or all")),
    "too many targets": Case("--targets 9", ("--targets 9 is more than the 8 test pictures",)),
    "a watermark that hides the base": Case("--watermark 1", ("--watermark 1.0 is out of range", "below 1")),
    "endless overshoot": Case("--overshoot inf", ("--overshoot inf is out of range",)),
    "no pixels": Case("--size 0", ("--size 0 is out of range", "pixels")),
    "no threads": Case("--threads 0", ("--threads 0 is out of range",)),
    "a rate in percent": Case("--fail-on 5", ("--fail-on 5.0 is out of range", "from 0 to 1, such as 0.05")),
    # targets and classes
    "a target that is not there": Case(
        "--target val/red/99.png", ("--target val/red/99.png is no id of toy and no file", "such as val/")
    ),
    "a target from the training set": Case(
        "--target train/red/00.png", ("--target train/red/00.png is a training picture", "has not seen")
    ),
    "a target outside without its class": Case(
        "--target x.png",
        ("--target x.png lies outside toy", "--target-class"),
        lambda here: toy.picture((9, 9, 9), 1).save(here / "x.png"),
    ),
    "a copy of a training picture": Case(
        "--target x.png --target-class red",
        ("--target x.png is a copy of the training picture train/red/00.png", "has not seen"),
        lambda here: shutil.copy(here / "toy/train/red/00.png", here / "x.png"),
    ),
    "a target outside that is broken": Case(
        "--target x.png --target-class red", ("--target x.png cannot be read", "give a whole picture"), file("x.png")
    ),
    "a target that is broken": Case(
        "--target val/red/00.png",
        ("--target val/red/00.png cannot be read", "give a whole picture"),
        file("toy/val/red/00.png"),
    ),
    "a target that is empty": Case(
        "--target val/red/00.png",
        ("--target val/red/00.png cannot be read (zero bytes)",),
        file("toy/val/red/00.png", b""),
    ),
    "a target of another class": Case(
        "--target val/red/00.png --target-class blue", ("--target val/red/00.png shows 'red'", "rules out")
    ),
    "an unknown target class": Case(
        "--target-class green", ("--target-class 'green' is no class of the data", "one of blue, red")
    ),
    "an unknown base class": Case(
        "--base-class none", ("--base-class 'none' is no class of the data", "one of blue, red")
    ),
    "one class for both": Case("--target-class red --base-class red", ("name the same class", "needs two")),
    # the victim
    "an unknown head": Case("--head svm", ("--head 'svm' is unknown", "logistic:C with C > 0")),
    "a head without its strength": Case(
        "--head logistic:0", ("--head 'logistic:0' is unknown", "logistic:C with C > 0")
    ),
    "a victim module that is not there": Case(
        "--victim nowhere:train", ("nowhere:train cannot be imported", "expected module:function")
    ),
    "a victim that is not there": Case(
        "--victim toy:nothing", ("toy:nothing cannot be imported", "expected module:function")
    ),
    "a victim that cannot be called": Case(
        "--victim toy:not_callable", ("toy:not_callable is a int", "expected a function or class")
    ),
    "an empty victim": Case("--victim=", ("--victim: the value is empty",)),
    "an empty auditor": Case("--auditor=", ("--auditor: the value is empty",)),
    "an empty change": Case("--robust=", ("--robust: the value is empty",)),
    "an empty key": Case("--require-signed=", ("--require-signed: the value is empty",)),
    "one of two targets empty": Case("--target val/red/00.png --target=", ("--target: the value is empty",)),
    "two victims": Case("--victim toy:victim --head logistic:1", ("both name a victim", "give one")),
    "an unknown way to store": Case(
        "--store webp", ("--store 'webp' is not a way to store", "expected png, or jpeg:Q")
    ),
    "a jpeg without quality": Case("--store jpeg:0", ("--store 'jpeg:0'", "Q from 1 to 100")),
    # the run folder
    "out is a file": Case("", ("--out run is a file", "expected a folder"), file("run")),
    "out holds something else": Case(
        "", ("--out run is not empty and holds no run", "choose another"), file("run/thesis.tex")
    ),
    "a broken plan": Case(
        "", ("run/plan.json", "choose another --out"), file("run/plan.json", b'{"schema_version": 1,')
    ),
    "a plan of another version": Case(
        "", ("run/plan.json", "choose another --out"), file("run/plan.json", b'{"schema_version": 99}')
    ),
    # the command line
    "an unknown option": Case("--epz 3", ("--epz", "near names: --eps", "poisonfrogs --help")),
    "an option without its value": Case("--seed", ("--seed", "poisonfrogs --help")),
    "a seed that is no number": Case("--seed 1.5", ("--seed", "'1.5' is no whole number")),
    "targets that are no number": Case("--targets many", ("--targets", "'many' is no whole number")),
    "an unknown view": Case("--view centre", ("centre", "--view", "'model', 'squash'")),
    "two data sets": Case("other", ("other", "poisonfrogs --help")),
}


def test_the_payload_would_run_if_it_were_unpickled(here: Path) -> None:
    pickle.loads(pickle.dumps(Payload()))
    assert (here / "it-ran").is_dir()


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
        ([], "Expected one of {audit, certify, demo, "),
        (["adit"], "adit; near names: audit"),
        (["audit"], "DATA is missing: poisonfrogs audit DATA"),
        (["demo", "--sead", "1"], "--sead, 1; near names: --seed"),
        (["audit", "no\nsuch\x1b[2Jpath"], r"no\nsuch\x1b[2Jpath does not exist"),
        (["audit", os.fsdecode(b"\xff")], r"\udcff does not exist"),
        (["audit", "x" * 5000], "File name too long"),
        (["audit", ""], "the value is empty"),
        (["certify", ""], "the value is empty"),
        (["report", ""], "the value is empty"),
        (["match", "", "--against", "toy"], "the value is empty; expected one (is a variable of the shell not set?)"),
        (["match", "toy", "--against", ""], "--against: the value is empty"),
    ],
)
def test_other_commands_are_refused_with_one_line_too(
    arguments: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = on_disk(here)
    assert main(arguments) == 2
    refused(capsys, says)
    assert on_disk(here) == before


@pytest.mark.parametrize("name", ["data", "cache", "model", "victim", "auditor", "robust", "target_class"])
def test_an_empty_value_from_python_is_refused_too(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is empty; give a value, or leave it out"):
        Audit(**{"data": "toy", name: ""})


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
    assert main(quick(cache, "--threads", "2")) == 2
    refused(capsys, "run holds a run of --threads 1", "give --threads 1 or none, or choose another --out")
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
    assert not on_disk(here / "run")
    assert main(quick(cache)) == 0


def test_a_victim_that_returns_no_function_is_named(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "victim", lambda images, labels, *, seed: None)
    assert main(command(cache, "--passes", "2", "--victim", "toy:victim")) == 2
    refused(capsys, "toy:victim returned a NoneType; expected a function of pictures, such as its predict_proba")


def test_a_lack_of_memory_is_said_in_one_line(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poisonfrogs.audit.prepare", lambda *_: [0] * 2**62)
    assert main(command(cache)) == 2
    refused(capsys, "there is not enough memory; give smaller pictures")


def test_a_fault_in_the_user_s_own_code_shows_its_traceback_and_is_not_a_finding(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "victim", lambda images, labels, *, seed: 1 / 0)
    assert main(command(cache, "--passes", "2", "--victim", "toy:victim")) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
