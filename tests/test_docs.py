"""What the documents promise: README's commands run, its numbers are the benchmark's, its links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pages import Page
from poisonfrogs import load_data, pictures, wilson
from poisonfrogs.cli import main
from poisonfrogs.cli.commands import parse
from poisonfrogs.text import head_name

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[str]:
    return [line for block in blocks(text, "console") for line in block.splitlines() if line.strip()]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """A user's folder with `pictures` of two classes in it: 60 of the bundled ones, 20 held out."""
    data = load_data("frogs-and-planes")
    for split, images, count in (("train", data.train, 20), ("val", data.test, 10)):
        for label, name in enumerate(data.classes):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in (images.labels == label).nonzero()[0][:count]:
                images[int(i)].save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return tmp_path


def test_readme_s_commands_run(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    ran = 0
    for line in commands(README):
        program, *arguments = shlex.split(line.partition("#")[0])
        if program == "make":
            assert re.search(rf"^{arguments[0]}:", makefile, re.MULTILINE)
            continue
        assert program == "poisonfrogs"
        assert main(arguments) == 0
        if arguments[0] in ("audit", "demo"):
            assert "targets fell to one correctly labelled poison each" in " ".join(capsys.readouterr().out.split())
        ran += 1
    assert ran
    # what make demo runs
    (demo,) = re.findall(r"^demo:.*\n\t\$\(BIN\)/poisonfrogs (.*)$", makefile, re.MULTILINE)
    assert str(parse(shlex.split(demo)).out) == "runs/demo"


def test_readme_s_python_does_an_audit(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(README, "python")
    assert len(code.splitlines()) <= 10
    exec(compile(code, "README.md", "exec"), {})
    assert re.search(r"\d+ of \d+ fell \(\d+% to \d+%\)", capsys.readouterr().out)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_modules_exist(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (document.parent / target).exists(), target
    for path in re.findall(r"`((?:src|tests|docs|examples|benchmarks|scripts)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


def test_every_option_is_in_the_documentation_s_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Flags that docs/audit.md and docs/report.md name exist."""
    with pytest.raises(SystemExit):
        parse(["audit", "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    for name in ("audit.md", "report.md", "clusters.md"):
        assert set(re.findall(r"`(--[a-z-]+)", (ROOT / "docs" / name).read_text())) <= known


def result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks/results" / name).read_text())


def flat(text: str) -> str:
    return " ".join(text.split())


def test_readme_s_table_is_the_benchmark_s() -> None:
    every, measured = result("dogfish_all.json"), result("bases.json")["rows"]
    rows = {
        "every test picture": every,
        "a random base": measured["random, 8/255"],
        "the base farthest from the target": measured["farthest, 8/255"],
        "the paper's beta form, without a bound": measured["nearest, beta"],
        "MobileNetV2": measured["mobilenetv2_100"],
        "SqueezeNet": measured["squeezenet1_1"],
        "planes, dogs and frogs": measured["three classes"],
    }
    table = [line for line in README.splitlines() if line.startswith("|") and " of " in line]
    assert len(table) == len(rows)
    for line in table:
        name, fell, confidence, control, drop, linf = [cell.strip() for cell in line.strip("|").split("|")]
        row = rows[name]
        low, high = wilson(row["n_success"], row["n_eligible"])
        assert fell == f"{row['n_success']} of {row['n_eligible']} ({low:.1%} to {high:.1%})"
        assert confidence == f"{row['median_confidence']:.4f}"
        assert control == f"{round(row['control_rate'] * row['n_trials'])} of {row['n_trials']}"
        assert drop == f"{100 * row['mean_accuracy_drop']:.2f} points"
        assert linf == f"{255 * row['median_linf']:.0f}/255"
    assert f"took {60 * every['minutes'] / every['n']:.1f} s a target on 2 cores" in flat(README)
    agreed = f"{100 * every['auditor']['agreement']:.1f} % of its poisons what their label says"
    assert f"an independent network calls {agreed}" in flat(README)


def test_readme_s_demo_is_the_benchmark_s() -> None:
    demo = result("demo.json")
    wrong = round(demo["control_rate"] * demo["n_trials"])
    said = f"{demo['n_success']} of {demo['n_eligible']} fall, {wrong} of {demo['n_trials']} without the poison"
    assert f"{said}, in {demo['seconds']:.0f} s on 2 cores" in flat(README)


def test_readme_s_certified_head_is_the_benchmark_s() -> None:
    measured = result("certified_dogfish.json")
    best = measured["best_at"]["19"]
    held = [best["certified"][r] for r in ("19", "192", "384", "575")]
    assert [round(share * measured["n_train"]) for share in (0.01, 0.1, 0.2, 0.3)] == [19, 192, 384, 575]
    said = f"the usual head gets {measured['undefended_accuracy']:.1%} right".replace("%", " %")
    assert said in flat(README)
    said = f"one gets {best['accuracy']:.1%} right, and of all answers {held[0]:.1%} are proved against 1% of".replace(
        "%", " %"
    )
    assert said in flat(README)
    said = f"{held[1]:.1%} against 10%, {held[2]:.1%} against 20%, {held[3]:.1%} against 30% ({measured['n']} test".replace(
        "%", " %"
    )
    assert said in flat(README)


def test_the_certified_tables_are_the_benchmark_s() -> None:
    text, attacks = (ROOT / "docs/certified.md").read_text(), 0
    for name, rows, operations in (
        ("dogfish", 5, ("1", "5", "19", "96", "192", "384", "575")),
        ("cifar10", 8, ("1", "5", "20", "50", "100", "250", "500", "1000")),
    ):
        measured = result(f"certified_{name}.json")
        lines = []
        for row in [*measured["frontier"], *measured["best_at"].values()]:
            shares = " | ".join(f"{row['certified'][r]:.4f}" for r in operations)
            lines.append(f"| {head_name(row)} | {row['accuracy']:.4f} | {shares} | {row['median_radius']:g} |")
        assert len([line for line in text.splitlines() if line in lines]) == rows
        assert f"| the usual head (the paper's recipe) | {measured['undefended_accuracy']:.4f} | 0 |" in text
        assert all(row["broken"] == 0 for row in measured["perfect_collisions"])
        attacks += sum(row["n"] for row in measured["perfect_collisions"])
    assert f"({attacks:,} attacks)" in flat(text)
    attacked = result("certified_attacked.json")["rows"]
    radius, neighbours = (
        [row for row in attacked if row["certified"]["family"] == name] for name in ("radius", "neighbours")
    )
    usual = [sum(row["usual"][key] for row in radius) for key in ("n_success", "n_eligible")]
    held = [
        [sum(row["certified"][key] for row in rows) for key in ("n_success", "n_eligible")]
        for rows in (radius, neighbours)
    ]
    assert not any(row["certified"]["n_broken"] for row in attacked)
    said = f"loses {usual[0]} of {usual[1]}, radius votes {held[0][0]} of {held[0][1]}, and 191 neighbours {held[1][0]} of {held[1][1]}."
    assert said in flat(text)
    assert f"are fitted in {measured['speed']['seconds']:.1f} s" in flat(text)
    assert f"takes {measured['speed']['sklearn_seconds']:.1f} s in the same run" in flat(text)


def test_the_documented_memory_is_the_benchmark_s() -> None:
    measured, text = result("features_50k.json"), flat((ROOT / "docs/audit.md").read_text())
    few = measured["a_tenth"]
    for said in (
        f"{measured['n']:,} pictures of 40 to 1,000 pixels a side took at most {measured['peak_rss_mib']:,} MiB",
        f"of which {measured['matrix_mib']} are the features",
        f"({few['n']:,} pictures: {few['peak_rss_mib']} and {few['matrix_mib']})",
        f"found the {measured['found_after_the_kill']:,} that were done",
        f"the other {measured['n'] - measured['found_after_the_kill']:,} in {measured['seconds_after_the_kill']:.0f} s",
    ):
        assert said in text
    assert f"{measured['n']:,} pictures in {measured['peak_rss_mib']:,} MiB" in (ROOT / "CHANGELOG.md").read_text()


def test_the_documented_page_is_the_benchmark_s() -> None:
    measured, text = result("report.json"), flat((ROOT / "docs/report.md").read_text())
    assert measured["bytes"] < 15_000_000
    opened = [measured[f"ms_to_open_at_{width}"] for width in (1280, 390)]
    assert max(one["worst"] for one in opened) < 2000
    said = f"{measured['n']} trials make a page of {measured['bytes'] / 1e6:.1f} MB, which opens in"
    assert f"{said} {max(one['median'] for one in opened) / 1000:.1f} s" in text


def test_the_sample_report_is_the_demo_s() -> None:
    """Its figures are those of the benchmark; README's pictures are whole, and small."""
    demo, sample = result("demo.json"), (ROOT / "docs/sample-report.html").read_text()
    page = Page(sample)
    for said in (
        f"{demo['n_success']} of {demo['n_eligible']} targets fell",
        f"median confidence in the wrong class {demo['median_confidence']:.4f}",
        f"accuracy {100 * demo['clean_accuracy']:.2f} %",
    ):
        assert said in page.words
    assert len(sample) < 2_000_000
    for name in ("two-attacks", "feature-space"):
        drawn = ROOT / f"docs/{name}.svg"
        assert ElementTree.fromstring(drawn.read_text()).tag.endswith("svg")
        assert drawn.stat().st_size < 100_000


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results").glob("*.json")), ids=lambda path: path.name)
def test_a_result_says_n_versions_and_hardware(path: Path) -> None:
    measured = result(path.name)
    assert measured["n"] > 0
    assert measured["versions"]["torch"]
    assert measured["hardware"]


def test_the_card_counts_what_is_bundled() -> None:
    data = load_data("frogs-and-planes")
    folder = Path(data.root)
    card = (folder / "README.md").read_text()
    for name, images in (("train", data.train), ("test", data.test)):
        counts = [int((images.labels == label).sum()) for label in range(2)]
        assert f"| {name} | {counts[0]} | {counts[1]} |" in card
    assert data.classes == ("airplane", "frog")
    assert not set(data.train.hashes) & set(data.test.hashes)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4_000_000
    assert pictures.decode(data.train.source.read(0)).image.size == (32, 32)


def test_the_example_of_one_s_own_training_code_falls(
    user: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    given = "audit pictures --view squash --size 96 --targets 3 --format json"
    assert main([*given.split(), "--victim", "examples.own_training_code:train"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["n_eligible"] >= 2
    assert summary["n_success"] >= summary["n_eligible"] - 1
