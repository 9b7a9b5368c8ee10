"""A plan whose lists are axes: every cell is an ordinary run, and nothing is written for a plan that is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pages import copied, read
from poisonfrogs import wilson
from poisonfrogs.audit import run_audit
from poisonfrogs.cli import main
from poisonfrogs.cli.commands import AuditCommand, parse
from poisonfrogs.costs import Costs
from poisonfrogs.data import bundled, load
from poisonfrogs.grid import Grid, _ours, _plan, _pooled, load_grid, run_grid, summarised
from poisonfrogs.plan import Audit, validate
from poisonfrogs.report.figures import Look, Rates, rates
from poisonfrogs.summary import counted
from poisonfrogs.types import InputError
from runs import kept, on_disk, refused, rows_of

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = """
model = "toy:factory"
passes = 20
head = "logistic:100"
precision = "fp32"
eps = ["64/255", "none"]
targets = 3
base_choice = "random"
class_pair = [["red", "blue"], ["blue", "red"]]
watermark = 0.3
poisons = [1, 4]
seed = [0, 1]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, data: Path, cache: Path) -> tuple[Grid, dict]:
    """A finished grid of sixteen cells."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "plan.toml").write_text(PLAN)
    grid = load_grid(folder / "plan.toml", data=data, out=folder / "run", cache=cache, threads=1)
    return grid, run_grid(grid)


def test_weights_may_be_an_axis(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('data = "pictures"\nweights = ["a.pth", "b.pth"]\n')
    grid = load_grid(tmp_path / "plan.toml", out=tmp_path / "run")
    for held in (_plan(grid, dict.fromkeys(grid.cells, 1), None), summarised(grid)):
        cells = json.loads(json.dumps(held))["cells"]
        assert [cell["weights"] for cell in cells] == ["a.pth", "b.pth"]


def test_a_cell_is_the_audit_that_its_options_name(done: tuple[Grid, dict], tmp_path: Path) -> None:
    grid, _ = done
    assert grid.axes == {"eps": [64 / 255, None], "class_pair": [("red", "blue"), ("blue", "red")],
                         "poisons": [1, 4], "seed": [0, 1]}  # fmt: skip
    assert [values for values, _ in grid.cells.values()] == [
        dict(zip(grid.axes, values, strict=True)) for values in product(*grid.axes.values())
    ]
    name, (_, cell) = next(
        item for item in grid.cells.items()
        if item[1][0] == {"eps": None, "class_pair": ("blue", "red"), "poisons": 4, "seed": 1}
    )  # fmt: skip
    assert name.startswith("eps-none-class-pair-blue-red-poisons-4-seed-1-")
    by_hand = Audit(
        data=cell.data, model="toy:factory", passes=20, head="logistic:100", precision="fp32", eps=None, targets=3,
        base_choice="random", target_class="blue", base_class="red", watermark=0.3, poisons=4, seed=1, threads=1,
        out=tmp_path / "by_hand", cache=cell.cache,
    )  # fmt: skip
    run_audit(by_hand)
    assert kept(tmp_path / "by_hand") == kept(cell.out)


def test_a_point_pools_the_seeds_and_says_what_the_journals_hold(done: tuple[Grid, dict]) -> None:
    grid, found = done
    assert found == json.loads((grid.out / "grid.json").read_text())
    assert found["n"] == 16 * 3
    assert len(found["points"]) == 8
    for point in found["points"]:
        rows = [
            row
            for values, cell in grid.cells.values()
            if all(json.loads(json.dumps(values[axis])) == point[axis] for axis in ("eps", "class_pair", "poisons"))
            for row in rows_of(cell)
        ]
        assert point["n"] == len(rows) == 6
        eligible = [row for row in rows if row["eligible"]]
        fell, marked = (sum(row[key] for row in eligible) for key in ("success", "watermark_only_success"))
        assert point["success_rate"] == round(fell / len(eligible), 6)
        # by hand where the seeds share targets: the rate of all, as wide as so many targets make it
        repeats = np.unique([f"{row['target_id']} {row['base_class']}" for row in eligible], return_counts=True)[1]
        low, high = by_rate(fell / len(eligible), len(eligible) / np.average(repeats, weights=repeats))
        assert point["ci95"] == pytest.approx([low, high], abs=1e-6)
        assert point["n_targets"] == len({(row["target_id"], row["base_class"]) for row in rows})
        assert point["watermark_only_rate"] == round(marked / len(eligible), 6)
        assert point["control_rate"] == round(sum(row["control_wrong"] for row in rows) / 6, 6)
    assert any(point["n_success"] for point in found["points"])


def by_rate(rate: float, n: float) -> tuple[float, float]:
    """Wilson (1927), as the two roots of (p - rate)² = z² p (1 - p) / n."""
    spread = 1.959963984540054**2 / n
    low, high = sorted(np.roots([1 + spread, -2 * rate - spread, rate**2]).real)
    return low, high


def made_rows(target: str, **verdicts: bool | None) -> dict:
    said = {"success": False, "watermark_only_success": None, "as_jpeg_success": None, "control_wrong": False}
    figures = {
        "failed": False,
        "control_accuracy": 1.0,
        "accuracy": 1.0,
        "passes": 1,
        "linf": [0.1],
        "linf_from_base": [0.1],
        "auditor": None,
    }
    shares = {"probabilities": [1.0, 0.0], "control_probabilities": [1.0, 0.0]}
    return {"target_id": target, "base_class": "blue", "eligible": True, **said, **figures, **shares, **verdicts}


@pytest.mark.parametrize("seeds", [1, 2, 5, 50])
def test_more_seeds_of_the_same_targets_make_no_interval_narrower(seeds: int) -> None:
    """The same ten targets under each seed, half of them felled: the interval of 5 of 10, however many trials."""
    rows = [
        made_rows(str(n), success=n < 5, watermark_only_success=n < 2, as_jpeg_success=n < 4) for n in range(10)
    ] * seeds
    point = _pooled(rows, ["blue", "red"])
    assert (point["n"], point["n_targets"]) == (10 * seeds, 10)
    assert (point["n_success"], point["success_rate"]) == (5 * seeds, 0.5)
    for interval, fell in [("ci95", 5), ("watermark_only_ci95", 2), ("as_jpeg_ci95", 4), ("control_ci95", 0)]:
        assert point[interval] == pytest.approx(wilson(fell, 10), abs=1e-6)


def test_other_targets_do_make_it_narrower_and_a_rate_need_not_be_a_whole_number_of_them() -> None:
    rows = [made_rows(str(n), success=n < 5) for n in range(20)]
    assert _pooled(rows, ["blue", "red"])["ci95"] == [round(end, 6) for end in wilson(5, 20)]
    point = _pooled([*rows, made_rows("0", success=False)], ["blue", "red"])  # one of them again: 5 of 21
    assert point["n_targets"] == 20
    assert point["ci95"] == pytest.approx(by_rate(5 / 21, 441 / 23), abs=1e-6)  # 21² / (19 · 1² + 2²)


def test_a_target_that_most_seeds_try_does_not_tell_as_much_as_another() -> None:
    """Ten targets, but 91 of 100 trials are of one of them: an interval of ten would be far too narrow."""
    rows = [made_rows("0", success=True)] * 91 + [made_rows(str(n)) for n in range(1, 10)]
    point = _pooled(rows, ["blue", "red"])
    assert point["n_targets"] == 10
    assert point["ci95"] == pytest.approx(by_rate(0.91, 10000 / 8290), abs=1e-6)  # 100² / (91² + 9)


def test_a_control_is_of_a_picture_whatever_it_is_to_become() -> None:
    rows = [made_rows(str(n), base_class=name, control_wrong=n < 2) for n in range(10) for name in ("blue", "red")]
    for found in (_pooled(rows, ["blue", "red"]), counted(rows, ["blue", "red"])):
        assert found["control_ci95"] == pytest.approx(wilson(2, 10), abs=1e-6)
    assert _pooled(rows, ["blue", "red"])["n_targets"] == 20


def test_what_a_cell_cannot_do_is_told_with_its_name(
    done: tuple[Grid, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid({**done[0].shared, "out": tmp_path / "run"}, {"poisons": [1, 4]})

    def refusing(audit: Audit, **_: object) -> None:
        raise InputError("no memory", "no time")

    monkeypatch.setattr("poisonfrogs.grid.run_audit", refusing)
    with pytest.raises(InputError, match=rf"^cell {next(iter(grid.cells))}: no memory; no time$"):
        run_grid(grid)


def test_a_class_may_be_called_none_and_an_auditor_is_left_out_by_leaving_it_out(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('target_class = "none"\neps = ["none", 0.1]\nepochs = "none"')
    grid = load_grid(path, data=Path("DATA"))
    assert [(audit.target_class, audit.eps, audit.epochs) for _, audit in grid.cells.values()] == [
        ("none", None, None),
        ("none", 0.1, None),
    ]
    path.write_text("auditor = 3\neps = [[]]")
    with pytest.raises(
        InputError, match=r'auditor: 3 is no .*; expected a string; eps: .*; expected a number or "none"'
    ):
        load_grid(path, data=Path("DATA"))


def test_nothing_eligible_tells_nothing_under_any_number_of_seeds() -> None:
    point = _pooled([made_rows("0", eligible=False, control_wrong=True)] * 3, ["blue", "red"])
    assert (point["success_rate"], point["ci95"]) == (None, [0, 1])
    assert point["control_ci95"] == pytest.approx(wilson(1, 1), abs=1e-6)


@pytest.mark.parametrize("left", [[".lock"], ["plan.json.partial"], [".lock", "plan.json.partial"]])
def test_what_a_kill_at_the_start_leaves_does_not_block_the_same_command(left: list[str], tmp_path: Path) -> None:
    for name in left:
        (tmp_path / name).touch()
    _ours(tmp_path)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="is not empty and holds no grid"):
        _ours(tmp_path)


def test_the_folder_of_a_grid_is_no_folder_for_an_audit(done: tuple[Grid, dict]) -> None:
    grid, _ = done
    with pytest.raises(InputError, match=f"{grid.out} holds a run of grid; choose another --out"):
        run_audit(Audit(data=grid.shared["data"], model="toy:factory", out=grid.out, threads=1))


def test_a_stopped_grid_goes_on_and_a_larger_one_keeps_its_cells(
    done: tuple[Grid, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid({**done[0].shared, "out": tmp_path / "run"}, {"poisons": [1, 4]})
    shown: list[str] = []

    def stop(cell: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, after=stop)
    assert len(list((tmp_path / "run").glob("*/summary.json"))) == 1
    larger = replace(grid, axes={"poisons": [1, 2, 4]})
    found = run_grid(larger, progress=lambda stage, done, of: shown.append(stage))
    assert [point["poisons"] for point in found["points"]] == [1, 2, 4]
    assert found["finished"]
    assert any(stage.startswith("cell 2 of 3, about") for stage in shown)
    before = {name: content for name, content in on_disk(tmp_path / "run").items() if name.endswith("journal.jsonl")}
    monkeypatch.setattr("poisonfrogs.trial.run", None)
    assert run_grid(larger) == found  # nothing is computed again
    after = {name: content for name, content in on_disk(tmp_path / "run").items() if name.endswith("journal.jsonl")}
    assert before == after


def test_going_on_counts_the_cells_that_are_left_and_keeps_what_all_were_to_take(
    done: tuple[Grid, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three cells of three trials, by the estimate a minute each."""
    monkeypatch.setattr(Costs, "trial", lambda self, audit: 60.0)
    grid = Grid({**done[0].shared, "out": tmp_path / "run"}, {"seed": [0, 1, 2]})
    shown: list[str] = []

    def stop(cell: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, after=stop)
    begun = (grid.out / "plan.json").read_bytes()
    assert json.loads(begun)["seconds_estimated"] == 540
    run_grid(grid, progress=lambda stage, done, of: shown.append(stage))
    for number in (1, 2):
        assert any(stage.startswith(f"cell {number} of 3, about 6 min left") for stage in shown)
    assert (grid.out / "plan.json").read_bytes() == begun


def test_a_grid_names_all_that_its_cells_were_run_with(done: tuple[Grid, dict], tmp_path: Path) -> None:
    grid, found = done
    run = copied(grid.out, tmp_path / "run")
    path = run / next(iter(grid.cells)) / "summary.json"
    summary, torch_now = json.loads(path.read_text()), found["versions"]["torch"]
    older = {"hardware": "another machine", "versions": found["versions"] | {"torch": "0.1"}}
    path.write_text(json.dumps(summary | older))
    again = summarised(Grid({**grid.shared, "out": run}, grid.axes))
    assert again["hardware"] == f"another machine; {found['hardware']}"
    assert again["versions"] == found["versions"] | {"torch": f"0.1; {torch_now}"}


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("poison = 3\nwater-mark = 0.1\nzzz = 1", ["'poison' (nearest: poisons)", "'water-mark' (nearest: watermark)",
                                                  "'zzz'"]),
        ('poisons = "many"\neps = "8/x"\nreplace = 1', ["poisons: 'many' is no value for it; expected a whole number",
                                                       "eps: '8/x' is no number", "replace: 1 is no value for it"]),
        ("poisons = [1, -1]\nwatermark = [0.2, 2]", ["--poisons -1 is out of range", "--watermark 2.0 is out of range"]),
        ("poisons = [0, -1]\ntargets = 0", ["--poisons 0 is out of", "--poisons -1 is out of", "--targets 0 is out of"]),
        ('head = ["paper", "nonsense", "certified:stable:abc"]', ["--head 'nonsense' is unknown", "'abc' is no number; expected a number for alpha"]),
        ('auditor = ["toy:factory", "toy:nothing"]', ["toy:nothing"]),
        ('model = ["toy:none", "toy:nothing"]', ["toy:none cannot", "toy:nothing cannot"]),
        ('victim = "toy:nothing"', ["toy:nothing"]),
        ('[attack]\npoisons = 1', ["unknown keys: 'attack';"]),
        ("poisons = []", ["poisons: an empty list"]),
        ('victim = ""\nout = ""\nhead = ["paper", ""]', [f"{key}: it is empty" for key in ("victim", "out", "head")]),
        ("poisons = [1, 1]", ["poisons: a value stands there twice"]),
        ('view = "sideways"', ["view: 'sideways' is no value for it; expected 'model' or 'squash'"]),
        ('class_pair = ["red"]', ['class_pair: ', '["TARGET CLASS", "BASE CLASS"]']),
        ('class_pair = [["red", "blue"], ["red", "green"], ["red", "red"]]',
         ["--base-class 'green' is no class of the data", "name the same class"]),
        ('class_pair = ["red", "blue"]\ntarget_class = "red"', ["class_pair beside target_class"]),
        ("poisons = [1, 99]", ["--poisons 99 is more than the 12 training pictures"]),
        ("targets = 999", ["--targets 999 is more than the 40 test pictures"]),
        ("workers = [1, 2]", ["workers says where, not what"]),
        ("poisons = ", ["is no TOML"]),
        (f"seed = {'[' * 5000}", ["is no TOML", "recursion"]),
    ],
)  # fmt: skip
def test_a_wrong_plan_is_refused_with_all_that_is_wrong_and_nothing_written(
    text: str, fragments: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.toml").write_text(text)
    before = on_disk(tmp_path)
    out = str(tmp_path / "run")
    given = ["audit", str(data), "--plan", str(tmp_path / "plan.toml"), "--out", out, "--cache", str(tmp_path / "c")]
    assert main(given) == 2
    refused(capsys, *fragments)
    assert on_disk(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["--plan", "nowhere.toml"], ["nowhere.toml cannot be read"]),
        (["--plan", "pipe.toml"], ["pipe.toml is no regular file; expected a TOML file"]),
        (["--plan", "plan.toml", "--poisons", "3"], ["--poisons stands beside --plan", "poisons = ..."]),
        (["--plan", "plan.toml", "--seed=0"], ["--seed stands beside --plan"]),
        (["--plan", "plan.toml", "--out", "full"], ["full is not empty and holds no grid"]),
        (["--plan", "plan.toml", "--out", "plan.toml"], ["is a file"]),
        ([], ["DATA is missing"]),
        (["--plan", "nothing.toml"], ["DATA is missing", 'data = "..."']),
    ],
)
def test_a_command_that_cannot_be_is_refused(
    arguments: list[str], fragments: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "plan.toml").write_text('data = "toy"\n')
    (here / "nothing.toml").touch()
    os.mkfifo(here / "pipe.toml")
    (here / "full").mkdir()
    (here / "full" / "mine.txt").touch()
    assert main(["audit", *arguments]) == 2
    refused(capsys, *fragments)


def test_the_command_line_goes_before_the_file_and_be_it_with_what_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('workers = 4\nengine = "ray"\nout = "elsewhere"\nthreads = 3\n')
    given = ["audit", "DATA", "--plan", str(path), "--workers=1", "--engine", "processes", "--out", "runs/audit"]
    command = parse(given)
    assert isinstance(command, AuditCommand)
    grid = load_grid(path, **{name: getattr(command, name) for name in command.written})
    ((_, cell),) = grid.cells.values()
    assert (cell.workers, cell.engine, cell.out.parent, cell.threads) == (1, "processes", Path("runs/audit"), 3)


def test_a_broken_certificate_ends_a_grid_as_it_does_an_audit(
    done: tuple[Grid, dict], data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, found = done
    given = ["audit", str(data), "--plan", str(grid.out.parent / "plan.toml"), "--out", str(grid.out)]
    monkeypatch.setattr("poisonfrogs.grid.run_grid", lambda *_, **__: found)
    assert main(given) == 0
    cells = [found["cells"][0] | {"checks": ["broken_certificate"]}, *found["cells"][1:]]
    monkeypatch.setattr("poisonfrogs.grid.run_grid", lambda *_, **__: found | {"cells": cells})
    assert main(given) == 3


def test_the_command_prints_its_points_and_writes_every_page(
    here: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "plan.toml").write_text(
        'data = "toy"\nmodel = "toy:factory"\nhead = "logistic:1"\npasses = [2, 3]\ntargets = 2\nthreads = 1\nout = "g"\n'
    )
    given = ["audit", "--plan", "plan.toml", "--cache", str(cache)]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "2  " in out
    assert "The page to read is g/report.html" in out
    assert (here / "g/report.html").is_file()
    assert len(list((here / "g").glob("*/report.html"))) == 2
    assert main([*given, "--format", "json"]) == 0
    assert [point["passes"] for point in json.loads(capsys.readouterr().out)["points"]] == [2, 3]
    assert main([*given, "--fail-on", "0"]) == 1


@pytest.mark.parametrize(
    ("path", "cells", "victims"),
    [("benchmarks/plans/paper.toml", 90, 1803), ("benchmarks/plans/laptop.toml", 20, 402),
     ("benchmarks/plans/ablation.toml", 12, 183), ("benchmarks/plans/fit.toml", 10, 210), ("examples/grid.toml", 12, None)],
)  # fmt: skip
def test_the_plans_that_come_with_the_project_can_be_read(path: str, cells: int, victims: int | None) -> None:
    """And the options that they leave out are those of their context."""
    grid = load_grid(ROOT / path, data=Path("DATA"))
    audits = [audit for _, audit in grid.cells.values()]
    for audit in audits:
        validate(audit)
    assert len(grid.cells) == cells
    if victims:
        arms = sum(int(audit.targets) * (2 if audit.watermark else 1) for audit in audits)
        controls = {(audit.seed, audit.clean_epochs) for audit in audits}  # one serves a seed of a clean network
        assert arms + len(controls) == victims
        assert {(audit.context, audit.passes, audit.model) for audit in audits} == {("end-to-end", 300, "alexnet32")}


def test_two_classes_are_cut_out_of_a_larger_set(tmp_path: Path) -> None:
    """As for the plan for laptops, here out of the bundled pictures, in the other order."""
    script, out = ROOT / "benchmarks/two_classes.py", tmp_path / "cut"
    wanted = ["--classes", "frog", "airplane", "--n", "5"]
    subprocess.run([sys.executable, str(script), str(bundled()), str(out), *wanted], check=True)
    whole, cut = load(bundled()), load(out)
    assert cut.classes == ("frog", "airplane")
    assert len(cut.test) == len(whole.test)
    for label, name in enumerate(cut.classes):
        mine = [cut.train.hashes[i] for i in (cut.train.labels == label).nonzero()[0]]
        theirs = [whole.train.hashes[i] for i in (whole.train.labels == whole.classes.index(name)).nonzero()[0]]
        assert mine == theirs[:5]


def test_an_axis_of_contexts_has_the_defaults_of_each(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('context = ["transfer", "end-to-end"]\npoisons = 2')
    grid = load_grid(tmp_path / "plan.toml", data=Path("DATA"), out=tmp_path / "run")
    by_hand = [Audit(data=Path("DATA"), context=context, poisons=2) for context in ("transfer", "end-to-end")]
    assert [replace(audit, out=by_hand[0].out) for _, audit in grid.cells.values()] == by_hand


def test_a_point_holds_the_mean_of_its_seeds_clean_networks(done: tuple[Grid, dict], tmp_path: Path) -> None:
    grid, found = done
    assert {point["clean_network"] for point in found["points"]} == {None}  # heads alone are trained there
    run = copied(grid.out, tmp_path / "run")
    there = Grid({**grid.shared, "out": run}, grid.axes)
    for number, name in enumerate(there.cells):
        summary = json.loads((run / name / "summary.json").read_text())
        said = {"training_loss": number / 8, "training_accuracy": 1 - number / 16, "test_accuracy": 0.5, "recipe": {}}
        (run / name / "summary.json").write_text(json.dumps(summary | {"clean_network": said}))
    points = summarised(there)["points"]  # the seed is the last axis: cells 0 and 1 are the first point
    assert [point["clean_network"] for point in points] == [
        {"training_loss": (4 * n + 1) / 16, "training_accuracy": 1 - (4 * n + 1) / 32, "test_accuracy": 0.5}
        for n in range(8)
    ]


# --- the page


def test_the_page_shows_every_point_and_leads_to_every_cell(done: tuple[Grid, dict]) -> None:
    grid, found = done
    shown = read(grid.out)
    for point in found["points"]:
        assert f"{point['n_success']}" in shown.words
        assert f"{100 * point['ci95'][1]:.1f}".removesuffix(".0") in shown.words
    links = {link["href"] for link in shown.all("a")}
    assert {f"{name}/report.html" for name in grid.cells} <= links
    charts = [one for one in shown.all("svg") if (one["aria-label"] or "").startswith("Success")]
    assert len(charts) == 2  # a figure for each pair of classes: along poisons, a curve for each eps
    assert "How does success depend on what the attacker can do?" in shown.words


def test_an_unfinished_grid_says_so(done: tuple[Grid, dict], tmp_path: Path) -> None:
    grid, found = done
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(grid.out / "plan.json", run)
    cells = [cell | ({"finished": False} if i else {}) for i, cell in enumerate(found["cells"])]
    (run / "grid.json").write_text(json.dumps(found | {"finished": False, "cells": cells}))
    assert "1 of 16 cells is done" in read(run).words
    assert main(["report", str(run)]) == 3


@pytest.mark.parametrize(
    ("file", "says"), [("grid.json", "none of whose cells is done"), ("plan.json", "holds no run")]
)
def test_a_grid_that_lacks_a_file_is_refused(
    file: str, says: str, done: tuple[Grid, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(done[0].out, tmp_path / "run")
    (run / file).unlink()
    assert main(["report", str(run)]) == 2
    refused(capsys, says)


def made(folder: Path, control_at: dict[float, float]) -> Path:
    """A grid of made-up points: poisons along the axis, two opacities, the control's rate of each."""
    points = [
        {"poisons": poisons, "watermark": watermark, "n_trials": 20, "n_targets": 10, "n_eligible": 20, "n_success": round(20 * rate),
         "success_rate": rate, "ci95": [rate / 2, rate], "watermark_only_rate": rate / 4,
         "watermark_only_ci95": [0.0, rate / 2], "control_rate": control, "control_ci95": [0.0, 0.5],
         "clean_network": None}
        for watermark, control in control_at.items()
        for poisons in (1, 5, 50)
        for rate in [watermark * poisons / 20]
    ]  # fmt: skip
    axes = {"watermark": list(control_at), "poisons": [1, 5, 50], "seed": [0, 1]}
    held = {"n": 120, "finished": True, "axes": axes, "points": points, "cells": [], "versions": {}, "hardware": "none"}
    plan = {"schema_version": 1, "kind": "grid", "grid": {"axes": axes}, "cells": [], "versions": {}}
    folder.mkdir()
    for name, content in (("plan.json", plan), ("grid.json", held)):
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(("second", "curves"), [(0.05, 5), (0.1, 6)])
def test_success_is_drawn_against_poisons_for_each_opacity_beside_watermark_only_and_control(
    second: float, curves: int, tmp_path: Path
) -> None:
    """By a second reading of the drawing; a control that is the same for both opacities is drawn once."""
    shown = read(made(tmp_path / "run", {0.2: 0.05, 0.3: second}))
    drawn = [one for one in shown.all("path") if "curve" in str(one["class"]) and "whisker" not in str(one["class"])]
    whiskers = [one for one in shown.all("path") if "whisker" in str(one["class"])]
    assert len(drawn) == len(whiskers) == curves
    expected = {
        "curve base": [(0.2 * poisons / 20, 0.1 * poisons / 20, 0.2 * poisons / 20) for poisons in (1, 5, 50)],
        "curve base dashed": [(0.05 * poisons / 20, 0, 0.1 * poisons / 20) for poisons in (1, 5, 50)],
        "curve target": [(0.3 * poisons / 20, 0.15 * poisons / 20, 0.3 * poisons / 20) for poisons in (1, 5, 50)],
        "curve target dashed": [(0.075 * poisons / 20, 0, 0.15 * poisons / 20) for poisons in (1, 5, 50)],
    }
    expected |= (
        {"curve plain dotted": [(0.05, 0, 0.5)] * 3}
        if curves == 5
        else {"curve base dotted": [(0.05, 0, 0.5)] * 3, "curve target dotted": [(0.1, 0, 0.5)] * 3}
    )
    assert {one["class"] for one in drawn} == expected.keys()
    for line, whisker in zip(drawn, whiskers, strict=True):
        rates_at = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", str(line["d"]))]
        ends = re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", str(whisker["d"]))
        for y, (low, high), at in zip(rates_at, ends, expected[str(line["class"])], strict=True):
            assert (y, float(low), float(high)) == pytest.approx([260 - 246 * share for share in at], abs=0.06)
    assert "50 0.2 20 10 20 10 50.0 %" in shown.words  # trials, targets, eligible, fell
    for name in ("watermark 0.2", "watermark 0.2, watermark only", "watermark 0.3", "control"):
        assert name in shown.words


def test_success_is_drawn_against_the_clean_network_s_training_loss(tmp_path: Path) -> None:
    """By a second reading of the drawing: a decade of the loss is as wide as the next, and 100 % is at 14, 0 at 260."""
    folder = made(tmp_path / "run", {0.3: 0.05})
    found = json.loads((folder / "grid.json").read_text())
    losses = {1: 1.0, 5: 0.01, 50: 0.0001}
    for point in found["points"]:
        epochs = point.pop("poisons")
        said = {"training_loss": losses[epochs], "training_accuracy": 0.9, "test_accuracy": 0.7 + epochs / 1000}
        point |= {"clean_epochs": epochs, "clean_network": said}
    found["axes"] = {"clean_epochs": [1, 5, 50], "watermark": [0.3], "seed": [0, 1]}
    (folder / "grid.json").write_text(json.dumps(found))
    shown = read(folder)
    title = "Success against the clean network's training loss"
    (drawn,) = [one for one in shown.all("svg") if (one["aria-label"] or "").startswith(title)]
    assert "At training loss 0.0001, 0.001, 0.01, 0.1, 1." in drawn["aria-label"]
    curves = [one["d"] for one in shown.all("path") if one["class"] == "curve base"]
    places = [[float(number) for number in spot.split()] for spot in re.split("[ML]", curves[-1])[1:]]
    assert [y for _, y in places] == pytest.approx([260 - 246 * 0.3 * n / 20 for n in (50, 5, 1)], abs=0.06)
    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0], abs=0.11)
    assert "0.705" in shown.words  # the test accuracy stands in the table
    found["points"] = [point | {"clean_network": None} for point in found["points"]]
    (folder / "grid.json").write_text(json.dumps(found))
    assert title not in read(folder).words


def test_a_curve_stands_where_its_numbers_are() -> None:
    """By a second reading of the drawing: y grows downwards from 100 % at 14 to 0 at 260."""
    line = Rates(Look("success", "base", "dot"), [(1, 50.0, 25.0, 100.0), (70, 100.0, 90.0, 100.0)])
    svg = str(rates([line], [(1, "1"), (70, "70")], "poisons", "Success"))
    assert "V14.0" in svg  # the interval reaches 100 %
    low, middle = 260 - 0.25 * 246, 260 - 0.5 * 246
    assert f" {low:.1f}V" in svg
    assert f" {middle:.1f}L" in svg
    assert "success: 50 %, 100 %" in svg
