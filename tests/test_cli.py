"""What the command line prints where, how it ends, and what it does not load to get there."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from importlib.metadata import version
from pathlib import Path

import pytest

from poisonfrogs import plan
from poisonfrogs.cli import main, show
from poisonfrogs.cli.commands import COMMANDS, AuditCommand, DemoCommand, parse
from poisonfrogs.plan import DEFAULTS, Audit
from poisonfrogs.text import printable
from runs import command, quick

HEAVY = {"torch", "timm", "torchvision", "scipy", "skimage", "pyarrow"}
SUMMARY = {  # what the issue promises; the rest says where the numbers come from
    *("schema_version", "n_trials", "n_eligible", "n_success", "success_rate", "ci95", "n_failed_trials"),
    *("control_rate", "median_confidence", "control_median_confidence", "clean_accuracy", "mean_accuracy_drop"),
    *("worst_accuracy_drop", "median_passes", "median_linf", "seconds_per_trial", "checks"),
}
TESTS = Path(__file__).parent


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What --help says, on one line."""
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--help"])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return re.sub(r"[\s│]+", " ", out)


def ran(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    return subprocess.run(
        [sys.executable, "-m", "poisonfrogs", *arguments], capture_output=True, text=True, env=environment, **options
    )


# --- help


def test_the_program_names_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    said = helped(capsys)
    for name, kind in COMMANDS.items():
        assert f"{name} {(kind.__doc__ or '').splitlines()[0]}" in said


def explained(source: Path, name: str) -> dict[str, str]:
    """The fields of a class with the text that stands below each."""
    (found,) = (node for node in ast.walk(ast.parse(source.read_text())) if getattr(node, "name", None) == name)
    texts = {}
    for field, below in zip(found.body, [*found.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(below, ast.Expr), f"{name}.{field.target.id} has no text"
            texts[field.target.id] = below.value.value
    return texts


def test_every_option_of_an_audit_has_a_text_and_help_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    texts = explained(Path(plan.__file__), "Pipeline") | explained(Path(plan.__file__), "Audit")
    assert list(texts) == [field.name for field in fields(Audit)]
    said = helped(capsys, "audit")
    for name, text in texts.items():
        assert text in said
        assert name == "data" or f"--{name.replace('_', '-')} " in said
    for flag in ("--fail-on NUMBER", "--format {table,json}", "--eps NUMBER|none", "(default: 'by --context')"):
        assert flag in said


def test_the_demo_s_options_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    said = helped(capsys, "demo")
    for field in fields(DemoCommand):
        assert re.search(rf"--{field.name} \S+ [A-Z]", said)


# --- reading the arguments


def test_defaults_are_those_of_the_library() -> None:
    read = parse(["audit", "D"])
    expected = Audit(data=Path("D"))
    assert {f.name: getattr(read, f.name) for f in fields(Audit)} == {f.name: getattr(expected, f.name) for f in fields(Audit)}  # fmt: skip


ARGUMENTS = {
    "model": ("--model resnet18=w.pth", "resnet18=w.pth"),
    "weights": ("--weights w.pth", Path("w.pth")),
    "out": ("--out r", Path("r")),
    "view": ("--view squash", "squash"),
    "size": ("--size 96", 96),
    "targets": ("--targets all", "all"),
    "target": ("--target a.png --target b.png", ("a.png", "b.png")),
    "target_class": ("--target-class None", "None"),
    "base_class": ("--base-class 3", "3"),
    "context": ("--context scratch", "scratch"),
    "target_choice": ("--target-choice least-confident", "least-confident"),
    "epochs": ("--epochs 3", 3),
    "learning_rate": ("--learning-rate 1e-4", 1e-4),
    "clean_epochs": ("--clean-epochs 4", 4),
    "trials_per_seed": ("--trials-per-seed 2", 2),
    "base_choice": ("--base-choice random", "random"),
    "poisons": ("--poisons 5", 5),
    "watermark": ("--watermark 3/10", 0.3),
    "replace": ("--replace", True),
    "eps": ("--eps none", None),
    "beta": ("--beta=1e-2", 0.01),
    "passes": ("--passes 7", 7),
    "overshoot": ("--overshoot 0", 0.0),
    "head": ("--head logistic:10", "logistic:10"),
    "victim": ("--victim mine:train", "mine:train"),
    "auditor": ("--auditor resnet18=w.pth", "resnet18=w.pth"),
    "store": ("--store jpeg:90", "jpeg:90"),
    "precision": ("--precision fp32", "fp32"),
    "plan": ("--plan p.toml", Path("p.toml")),
    "robust": ("--robust jpeg:75-95,crop", "jpeg:75-95,crop"),
    "workers": ("--workers 2", 2),
    "engine": ("--engine ray", "ray"),
    "seed": ("--seed 9", 9),
    "device": ("--device cuda", "cuda"),
    "threads": ("--threads 2", 2),
    "cache": ("--cache c", Path("c")),
    "require_signed": ("--require-signed k.pub", Path("k.pub")),
    "manifest": ("--manifest m.jsonl", Path("m.jsonl")),
    "fail_on": ("--fail-on 1/20", 0.05),
    "format": ("--format json", "json"),
}


def test_every_option_is_read() -> None:
    assert ARGUMENTS.keys() == {f.name for f in fields(AuditCommand) if f.default is not MISSING} - {"data", "written"}
    resolved = {context: parse(["audit", "D", "--context", context]) for context in DEFAULTS}
    for name, (text, value) in ARGUMENTS.items():
        like = resolved["scratch" if name == "context" else "transfer"]
        defaults = {other: getattr(like, other) for other in ARGUMENTS} | {"context": "transfer"}
        read = parse(["audit", "D", *text.split()])
        assert getattr(read, name) == value != defaults[name]
        assert set(read.written) == {name, "data"} & {f.name for f in fields(Audit)}
        assert type(getattr(read, name)) is type(value)
        assert all(getattr(read, other) == default for other, default in defaults.items() if other != name)


@pytest.mark.parametrize("context", list(DEFAULTS))
def test_defaults_follow_from_the_context_and_what_is_given_stays(context: str) -> None:
    read = parse(["audit", "D", "--context", context, "--poisons", "7"])
    assert {name: getattr(read, name) for name in DEFAULTS[context]} == DEFAULTS[context] | {"poisons": 7}
    assert plan.identity(read)["eps"] == DEFAULTS[context]["eps"]  # what is written is the value


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), ("None", None), ("1e-3", 1e-3), ("1/3", 1 / 3)]
)
def test_budgets_may_be_fractions_numbers_or_none(text: str, value: float | None) -> None:
    assert getattr(parse(["audit", "D", "--eps", text]), "eps") == value  # noqa: B009  (Command has more kinds)


# --- what is loaded


def loaded(*arguments: str, here: Path) -> set[str]:
    """The modules that a command loads, in a process of its own."""
    script = (
        "import sys; from poisonfrogs.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=here, check=True
    )
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    ["--help", "audit --help", "demo --help", "--version", "audit D --epz 3", "report --help", "report nowhere", ""],
)
def test_nothing_heavy_is_loaded_to_explain_or_refuse(arguments: str, tmp_path: Path) -> None:
    modules = loaded(*arguments.split(), here=tmp_path)
    assert "poisonfrogs.cli.commands" in modules
    assert not modules & HEAVY


def test_a_real_audit_does_load_what_the_guard_looks_for(tmp_path: Path) -> None:
    assert {"torch", "timm"} <= loaded("audit", "nowhere", here=tmp_path)


def test_the_version_is_that_of_the_distribution() -> None:
    done = ran("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"poisonfrogs {version('poisonfrogs')}\n", "")


# --- what is printed


def test_json_is_the_summary_and_nothing_else(here: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(quick(cache, "--format", "json")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    printed, stored = json.loads(out), json.loads((here / "run" / "summary.json").read_bytes())
    assert printed == stored
    assert printed.keys() >= SUMMARY
    assert printed["n_trials"] == 8


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_one_s_own_code_prints_is_not_among_the_json(
    workers: str, here: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "talkative.py").write_text(
        "import ctypes, subprocess, sys, toy\nprint('imported')\n\n\ndef fit(images, labels, *, seed):\n    print('epoch 1')\n"
        "    subprocess.run(['echo', 'from a process'])\n    ctypes.CDLL(None).puts(b'from C')\n"
        "    print('past our stdout', file=sys.__stdout__)\n"
        "    predict = toy.victim(images, labels, seed=seed)\n    return lambda asked: print('asked') or predict(asked)\n"
    )
    monkeypatch.syspath_prepend(here)
    asked = command(cache, "--passes", "2", "--victim", "talkative:fit", "--workers", workers, "--format", "json")
    assert main(asked) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["n_trials"] == 8
    own = {"imported", "epoch 1", "asked", "from a process", "from C", "past our stdout"}
    assert own <= set(said.err.splitlines())


def test_a_process_prints_on_stdout_again_after_the_work(capfd: pytest.CaptureFixture[str]) -> None:
    def echo(text: str) -> None:
        subprocess.run(["echo", text], check=True)

    echo("before")
    with show.progress():
        echo("meanwhile")
    echo("between")
    with pytest.raises(ValueError, match="ours"), show.progress():
        raise ValueError("ours")
    echo("after")
    assert capfd.readouterr() == ("before\nbetween\nafter\n", "meanwhile\n")


def test_work_goes_on_where_there_is_no_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under pythonw, or where the caller closed it: its number may be another file's by then."""
    monkeypatch.setattr(sys, "__stdout__", None)
    before = os.fstat(1)
    with show.progress():
        assert os.path.samestat(os.fstat(1), before)


def test_the_table_says_what_the_summary_holds(here: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(quick(cache, "--target-class", "red", "--base-class", "blue")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    held = json.loads((here / "run" / "summary.json").read_bytes())
    assert f"success       {held['n_success']} of {held['n_eligible']} eligible targets (4 drawn)\n" in out
    assert f"{held['ci95'][0]:.1%} to {held['ci95'][1]:.1%}\n" in out
    assert f"\n{held['n_success']} of {held['n_eligible']} targets fell to one correctly labelled poison each (red taken for blue); " in out  # fmt: skip
    assert all(f"\ncheck {check['name']}: {check['message']}\n" in out for check in held["checks"])
    assert out.endswith("is in run\n")


def test_progress_is_told_on_stderr_and_only_to_a_terminal(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(quick(cache, "--out", "silent")) == 0
    silent = capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(sys.stderr, "isatty", lambda: True)
        patched.setenv("TERM", "xterm")
        assert main(quick(cache)) == 0
    told = capsys.readouterr()
    assert silent.err == ""
    assert "crafting" in told.err
    assert told.out.splitlines()[:3] == silent.out.splitlines()[:3]


def test_nothing_printed_can_command_the_terminal() -> None:
    every = "".join(map(chr, range(0x3000)))
    assert printable(every).isprintable()
    assert printable("ä 中 -") == "ä 中 -"


# --- how it ends


def test_fail_on_compares_with_the_interval_s_lower_end(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strong = command(cache, "--eps", "64/255", "--head", "logistic:100", "--format", "json")
    assert main(strong) == 0
    held = json.loads(capsys.readouterr().out)
    low = held["ci95"][0]
    assert 0 < low < held["success_rate"] - 0.01  # or the next lines would test nothing
    assert main([*strong, "--fail-on", str(low)]) == 1
    assert main([*strong, "--fail-on", str(low + 0.01)]) == 0
    assert main([*strong, "--fail-on", "1/1000"]) == 1
    assert main([*strong, "--fail-on", "none"]) == 0


def test_3_where_no_target_was_eligible(here: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(cache, "--passes", "2", "--victim", "toy:contrary", "--fail-on", "0")) == 3
    out = capsys.readouterr().out
    assert "rate          none: no target was eligible" in out
    held = json.loads((here / "run" / "summary.json").read_bytes())
    assert (held["n_trials"], held["n_eligible"], held["success_rate"]) == (8, 0, None)


def test_3_where_every_trial_failed(here: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(quick(cache, "--model", "toy:Gradientless", "--fail-on", "0")) == 3
    held = json.loads((here / "run" / "summary.json").read_bytes())
    assert held["n_failed_trials"] == held["n_trials"] == 8
    assert "failed_trials" in {check["name"] for check in held["checks"]}
    assert "check failed_trials: 8 of 8 trials failed" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_reader_that_leaves_changes_neither_the_silence_nor_the_verdict(here: Path, cache: Path, form: str) -> None:
    def left(*arguments: str) -> tuple[int, str]:
        readable, writable = os.pipe()
        os.close(readable)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "poisonfrogs", *arguments],
                stdout=writable,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(TESTS)},
            )
        finally:
            os.close(writable)
        return done.returncode, done.stderr

    assert left("audit", "--help") == (0, "")
    assert left(*quick(cache, "--format", form, "--fail-on", "0")) == (1, "")


def test_a_reader_of_the_errors_that_leaves_changes_nothing_either(here: Path) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    done = subprocess.run([sys.executable, "-m", "poisonfrogs", "adit"], stdout=writable, stderr=writable)
    os.close(writable)
    assert done.returncode == 2


def test_a_name_that_the_terminal_cannot_show_ends_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", shown)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "猫.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    for arguments in (["keygen", "key"], ["sign", "data", "--key", "key"]):
        assert main(arguments) == 0
    (tmp_path / "data" / "猫.txt").write_text("b")
    assert main(["verify", "data", "--key", "key.pub"]) == 1
    assert rb"\u732b.txt" in shown.buffer.getvalue()


@pytest.mark.parametrize(
    ("mean", "worst", "said"),
    [
        (-0.000004, 0.0128, "changed by +0.00 points on average, -1.28 points at worst"),
        (None, None, "every trial failed"),
    ],
)
def test_a_drop_that_rounds_to_nothing_has_no_sign(mean: float | None, worst: float | None, said: str) -> None:
    assert show._dropped({"mean_accuracy_drop": mean, "worst_accuracy_drop": worst}) == said
