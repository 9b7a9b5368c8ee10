"""The report: what it says is what the run folder holds, whatever that is."""

from __future__ import annotations

import base64
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import toy
from pages import Page, copied, edited, many, read
from poisonfrogs import journal, plan
from poisonfrogs.cli import main
from poisonfrogs.cli.commands import COMMANDS, parse
from poisonfrogs.pictures import MARK, mark_of
from poisonfrogs.plan import Audit
from poisonfrogs.report import embed, page
from poisonfrogs.report.figures import Axis
from poisonfrogs.report.projection import plane
from poisonfrogs.report.sections import explained, kills, reproduce
from poisonfrogs.text import interval, percent, points
from runs import on_disk

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def shown(run: Path) -> Page:
    return read(run)


# --- what it says


def test_the_numbers_are_the_summary_s(shown: Page, summary: dict[str, Any]) -> None:
    assert 0 < summary["n_success"] < summary["n_eligible"] or summary["n_success"] == summary["n_eligible"]
    said = shown.words
    for expected in (
        f"{summary['n_success']} of {summary['n_eligible']} targets fell",
        f"success rate {percent(summary['success_rate'])} {interval(summary['ci95'])}",
        f"{percent(summary['control_rate'])}, {interval(summary['control_ci95'])}",
        f"median confidence in the wrong class {summary['median_confidence']:.4f}",
        f"without the poison {summary['control_median_confidence']:.4f}",
        f"accuracy {100 * summary['clean_accuracy']:.2f} %",
        f"changed by {points(-summary['mean_accuracy_drop'])} points on average, "
        f"{points(-summary['worst_accuracy_drop'])} at worst",
        f"It called {summary['auditor']['n_agreed']} of {summary['auditor']['n_poisons']} what their label says",
        f"seconds a trial {summary['seconds_per_trial']:.2f}",
        summary["hardware"],
        summary["model"]["weights"],
        *(f"{check['name']} {check['message']}" for check in summary["checks"]),
        *(f"{name} {version}" for name, version in summary["versions"].items()),
    ):
        assert expected in said, expected


def test_the_sections_stand_in_their_order_and_the_contents_lead_to_them(shown: Page) -> None:
    anchors = ["result", "kills", "numbers", "space", "explained", "reproduce"]
    assert [one["id"] for one in shown.all("section") if one.get("id")] == anchors
    assert [one["href"] for one in shown.all("a")][1 : 1 + len(anchors)] == [f"#{anchor}" for anchor in anchors]
    assert not shown.open  # every element is closed
    ids = [one["id"] for _, one in shown.elements if "id" in one]
    assert len(ids) == len(set(ids))


def test_nothing_on_the_page_comes_from_elsewhere(shown: Page) -> None:
    for _, attributes in shown.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), value
    (policy,) = [one["content"] for one in shown.all("meta") if one.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_trial_has_its_card_and_every_chart_its_table(shown: Page, run: Path) -> None:
    rows = journal.rows(run / "journal.jsonl")
    cards = [one for one in shown.all("li") if "data-trial" in one]
    assert sorted(int(str(one["data-trial"])) for one in cards) == [row["trial_id"] for row in rows]
    state = {int(str(one["data-trial"])): one["data-state"] for one in cards}
    for row in rows:
        expected = (
            "failed"
            if row["failed"]
            else "ineligible"
            if not row["eligible"]
            else "fell"
            if row["success"]
            else "stood"
        )
        assert state[row["trial_id"]] == expected
        base = ["blue", "red"].index(row["base_class"])
        assert f"{row['probabilities'][base]:.6f}" in shown.words
        assert f"{row['distance_after'][0]:.4f}" in shown.words
        assert f"{row['rotation_degrees']:.2f}" in shown.words
        assert f"{row['ssim'][0]:.4f}" in shown.words


def test_what_the_auditor_calls_each_poison_and_how_evasion_went(shown: Page, run: Path) -> None:
    rows = journal.rows(run / "journal.jsonl")
    for row in rows:
        called = int(np.argmax(row["auditor"]["poisons"][0]))
        name, sure = ["blue", "red"][called], row["auditor"]["poisons"][0][called]
        assert f"toy:factory calls the poison {name} {sure:.3f}" in shown.words
    taken = {
        norm: sum(
            ["blue", "red"][int(np.argmax(made["probabilities"]))] == row["base_class"]
            for row in rows
            for made in row["evasions"]
            if made["norm"] == norm
        )
        for norm in ("linf", "l2")
    }
    assert f"Tried on 3 targets, taken for the base class: {taken['linf']} (l-inf), {taken['l2']} (l2)." in shown.words


def test_every_drawing_has_words(shown: Page) -> None:
    drawings = shown.all("svg")
    assert len(drawings) > 15
    for one in drawings:
        assert one.get("aria-hidden") == "true" or (one.get("role") == "img" and str(one["aria-label"]).endswith("."))
    assert all("alt" in one for one in shown.all("img"))


def test_pictures_are_embedded_as_they_lie_in_the_run(shown: Page, run: Path) -> None:
    embedded = {base64.b64decode(str(one["src"]).partition(",")[2]) for one in shown.all("img")}
    for row in journal.rows(run / "journal.jsonl"):
        for file in (row["target_file"], *row["base_files"], *row["poison_files"]):
            assert (run / file).read_bytes() in embedded


def test_the_command_gives_the_plan_again(run: Path) -> None:
    recorded = json.loads((run / "plan.json").read_text())["audit"]
    given = shlex.split(" ".join(reproduce.command(recorded, None)))[1:]
    assert plan.identity(Audit(**{f: getattr(parse(given), f) for f in Audit.__dataclass_fields__})) == recorded


def test_what_the_page_advises_exists(shown: Page, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["audit", "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown.words))
    assert named
    assert named <= known
    assert {command for way in explained.WAYS for command in way.commands} <= {*COMMANDS}
    written = set(re.findall(r"<code>poisonfrogs ([a-z]+)", (run / "report.html").read_text()))
    assert {"audit", "match", "certify", "sign", "verify"} <= written <= {*COMMANDS}


def test_one_pair_of_classes_is_named(run: Path, tmp_path: Path, shown: Page) -> None:
    one_way = edited(run, tmp_path / "run", lambda rows: rows, lambda held: [one.update(target_class=0, base_class=1) for one in held["trials"]])  # fmt: skip
    assert "blue taken for red" in read(one_way).words
    assert "blue taken for red" not in shown.words


# --- how it is written


def test_only_the_page_is_written_and_the_same_page_each_time(run: Path, tmp_path: Path) -> None:
    mine = copied(run, tmp_path / "run")
    before = on_disk(mine)
    page.write(str(mine), str(tmp_path / "elsewhere.html"))
    assert on_disk(mine) == before
    page.write(mine)
    assert on_disk(mine) == before | {"report.html": (tmp_path / "elsewhere.html").read_bytes()}


def test_json_says_where_it_is(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.html"
    assert main(["report", str(run), "--out", str(out), "--format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["schema_version"], said["report"], said["bytes"]) == (1, str(out), out.stat().st_size)
    assert said["finished"] is True


def test_an_audit_ends_with_its_page(here: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from runs import quick

    assert main(quick(cache)) == 0
    assert "The page to read is run/report.html" in capsys.readouterr().out
    written = (here / "run/report.html").read_bytes()
    assert main(["report", "run"]) == 0
    assert (here / "run/report.html").read_bytes() == written


def test_782_trials_of_224_pixels_stay_below_15_mb(run: Path, tmp_path: Path) -> None:
    def photograph(file: Path, seed: int) -> None:
        """As a PNG a photograph of 224 pixels takes 90 to 120 kB."""
        rng = np.random.default_rng(seed)
        smooth = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(
            (224, 224), Image.Resampling.BICUBIC
        )
        noise = rng.normal(0, 4, (224, 224, 3))
        Image.fromarray(np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)).save(file)

    large = many(run, tmp_path / "run", 782)
    for number, row in enumerate(journal.rows(run / "journal.jsonl")):
        for kind, file in enumerate((row["target_file"], *row["base_files"], *row["poison_files"])):
            photograph(large / file, 3 * number + kind)
    assert sum(file.stat().st_size for file in (large / "poisons").iterdir()) > 12 * 90_000
    written = page.write(large)
    assert written.bytes < 15_000_000
    cards = [one for one in Page(written.path.read_text()).all("li") if "data-trial" in one]
    assert len(cards) == 782


@pytest.mark.parametrize("room", [1, 5, 8, 11, 12])
def test_of_very_many_trials_some_of_each_kind_are_shown(
    run: Path, shown: Page, room: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kills, "CARDS", room)
    some = Page(page.write(run, tmp_path / "some.html").path.read_text())
    states = [[one["data-state"] for one in read.all("li") if "data-trial" in one] for read in (some, shown)]
    assert len(states[0]) == room
    fell = states[1].count("fell")
    assert 0 < fell < 12
    assert states[0].count("fell") == min(fell, max(room - (12 - fell), room * 4 // 5))
    assert ("not shown here" in some.words) == (room < 12)


# --- its parts


def test_the_projection_has_a_closed_form() -> None:
    """Rotated and moved, the constructed case keeps its coordinates."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    at = rng.normal(size=5)
    base, target = at + turn[:, 0] * 3, at - turn[:, 0]
    normal, offset = turn @ np.array([2.0, -1.5, 0, 0, 0]), 0.7
    shown = plane(base, target, normal, offset)
    points = rng.normal(size=(20, 5))
    expected = points @ turn[:, :2] * [1, -1]
    np.testing.assert_allclose(shown(points), expected, atol=1e-12)
    np.testing.assert_allclose(shown.line, (2.0, 1.5, 0.7), atol=1e-12)
    sides = [a * shown.line[0] + b * shown.line[1] + shown.line[2] for a, b in shown(points)]
    np.testing.assert_allclose(sides, points @ normal + offset, atol=1e-12)


def test_a_normal_along_the_means_has_no_second_axis() -> None:
    shown = plane(np.array([1.0, 0]), np.array([0.0, 0]), np.array([4.0, 0]), -2.0)
    assert shown(np.array([[3.0, 5.0]])) == [(3.0, 0.0)]
    assert shown.line == (4.0, 0.0, -2.0)


def test_points_stand_on_the_side_that_the_victim_said(run: Path) -> None:
    _, opened = page.opened(run)
    clean, held = opened.tensors("clean"), opened.tensors("000000")
    asked = 0
    for i, one in enumerate(opened.outcomes):
        means = clean["means"][one.base], clean["means"][one.target]
        for kind, said in (("control_", one.control_probabilities), ("", one.probabilities)):
            shown = plane(*means, held[f"{kind}normal"][i], float(held[f"{kind}offset"][i]))
            ((x, y),) = shown(held["target"][i])
            score = shown.line[0] * x + shown.line[1] * y + shown.line[2]
            assert 1 / (1 + np.exp(-score)) == pytest.approx(said[one.base], abs=1e-4)
            asked += 1
    assert asked == 24


def test_the_largest_change_of_a_base_fits_whatever_of_it_is_a_watermark(run: Path, tmp_path: Path) -> None:
    mine = edited(run, tmp_path / "run", lambda rows: [row | {"linf_from_base": [40 / 255]} for row in rows])
    assert embed.magnification(page.opened(mine)[1]) == 127 // 40


def test_a_reduced_poison_says_that_it_is_crafted(run: Path) -> None:
    _, opened = page.opened(run)
    one = opened.outcomes[0]
    marks = []
    for file in (one.poison_files[0], one.base_files[0], one.target_file):
        shown = embed.picture(opened, file, 16)
        assert shown is not None
        assert shown.uri.startswith("data:image/webp")
        marks.append(mark_of(base64.b64decode(shown.uri.partition(",")[2])))
    assert marks == [MARK, None, None]


def test_differences_are_magnified_around_grey(run: Path) -> None:
    _, opened = page.opened(run)
    largest = max(round(255 * row["linf"][0]) for row in opened.rows)
    assert embed.magnification(opened) == 127 // largest
    one = opened.outcomes[0]
    shown = embed.difference(opened, one.base_files[0], one.poison_files[0], 1)
    assert shown is not None
    import io

    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.uri.partition(",")[2]))).convert("RGB"), dtype=int)
    base, poison = (np.asarray(Image.open(run / file), dtype=int) for file in (one.base_files[0], one.poison_files[0]))
    assert np.array_equal(pixels, 128 + poison - base)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.93, 0.97), (-12.0, 30.0), (5.0, 5.5), (0.0, 1e-6)])
def test_ticks_are_round_inside_and_a_few(low: float, high: float) -> None:
    ticks = Axis(low, high, 0, 1).ticks()
    assert 2 <= len(ticks) <= 11
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


def test_the_toy_run_is_what_these_tests_take_it_for(run: Path) -> None:
    states = [row["success"] for row in journal.rows(run / "journal.jsonl")]
    assert any(states)
    assert toy.CLASSES.keys() == {"blue", "red"}
