"""certify: whole runs on toy data, what they write and print, heads that are saved, and pictures that they are asked about."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import toy
from poisonfrogs import (
    NeighbourVotes,
    PartitionVotes,
    RadiusVotes,
    StableHead,
    extract_features,
    journal,
    load_data,
    load_head,
    load_model,
    pipeline,
    provenance,
    run_certify,
    signing,
)
from poisonfrogs.answering import ask
from poisonfrogs.certified import Answers
from poisonfrogs.certified.saved import save_head
from poisonfrogs.certify import _chosen, candidates
from poisonfrogs.cli import main
from poisonfrogs.data import BUNDLED
from poisonfrogs.models import BATCH, Net
from poisonfrogs.plan import Certify
from poisonfrogs.stats import rounded, wilson
from poisonfrogs.types import InputError
from runs import on_disk, refused

pytestmark = pytest.mark.usefixtures("one_thread")

OWN = ("--model", "toy:factory")  # a network that is code is named by whoever asks, not by the head's file


@pytest.fixture
def certify(data: Path, tmp_path: Path, cache: Path) -> Certify:
    """A small run that has not run: 24 training pictures, 40 test pictures."""
    return Certify(data=data, model="toy:factory", out=tmp_path / "run", cache=cache, threads=1, against="1")


def given(certify: Certify, *more: str) -> list[str]:
    line = f"certify {certify.data} --model toy:factory --out {certify.out} --cache {certify.cache} --threads 1"
    return [*line.split(), "--against", "1", *more]


def test_what_is_reported_is_what_the_classifier_says(certify: Certify) -> None:
    """Fitted again by hand on the same features: accuracy, radii and certified shares are the same."""
    summary = run_certify(certify)
    net, data = load_model("toy:factory"), load_data(certify.data)
    train, test = (extract_features(net, part, cache=certify.cache).matrix.numpy() for part in (data.train, data.test))
    kinds = {"radius": RadiusVotes, "neighbours": NeighbourVotes, "partitions": PartitionVotes, "stable": StableHead}
    for row in summary["frontier"]:
        mine = kinds[row["family"]](**row["parameters"], classes=[0, 1]).fit(train, data.train.labels)
        right, radius = mine.predict(test) == data.test.labels, mine.certified_radius(test)
        assert row["accuracy"] == pytest.approx(right.mean(), abs=1e-6)
        assert row["median_radius"] == np.median(np.where(right, radius, 0))
        for operations, share in row["certified"].items():
            assert share == pytest.approx((right & (radius >= int(operations))).mean(), abs=1e-6)
    assert summary["recommended"] == summary["frontier"][0]
    assert summary["recommended"]["parameters"] == {"k": 11}
    assert json.loads((certify.out / "summary.json").read_text()) == summary
    rows = [json.loads(line) for line in (certify.out / "answers.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list(data.test.ids)
    assert np.mean([row["class"] == row["predicted"] for row in rows]) == summary["recommended"]["accuracy"]
    assert np.mean([row["radius"] >= 1 and row["class"] == row["predicted"] for row in rows]) == pytest.approx(
        summary["recommended"]["certified"]["1"]
    )


def test_every_interval_is_that_of_its_share_and_every_curve_goes_through_it(certify: Certify) -> None:
    summary = run_certify(certify)
    n = summary["n_test"]
    assert summary["undefended_accuracy"] > 0.9
    pairs = [(summary["undefended_accuracy"], summary["undefended_ci95"])]
    curves = json.loads((certify.out / "curves.json").read_text())
    for row, curve in zip(summary["frontier"], curves, strict=True):
        pairs.append((row["accuracy"], row["accuracy_ci95"]))
        pairs += [(row["certified"][r], row["certified_ci95"][r]) for r in row["certified"]]
        drawn = dict(zip(curve["operations"], curve["certified"], strict=True))
        assert drawn[0] == row["accuracy"]
        assert drawn[1] == row["certified"]["1"]
    for share, interval in pairs:
        assert interval == pytest.approx(wilson(round(share * n), n), abs=1e-6)


def test_the_same_run_gives_the_same_figures(certify: Certify) -> None:
    first = run_certify(certify)
    again = run_certify(certify)
    assert first | {"seconds": []} == again | {"seconds": []}


def test_the_rule_looks_at_no_picture() -> None:
    """Without --trusted: a function of the number of operations, whatever the data."""
    for n_train in (500, 5_000, 50_000):
        assert candidates(19, n_train, 2)[0].get_params()["k"] == 191


def test_chosen_on_trusted_pictures_it_is_the_best_on_them(certify: Certify, tmp_path: Path) -> None:
    trusted = toy.write_folder(tmp_path / "trusted", train=6, test=6, seed=1000)
    summary = run_certify(replace(certify, trusted=str(trusted), against="3"))
    net, data, ours = load_model("toy:factory"), load_data(certify.data), load_data(trusted)
    train = extract_features(net, data.train, cache=certify.cache).matrix.numpy()
    seen = np.vstack([extract_features(net, part, cache=certify.cache).matrix for part in (ours.train, ours.test)])
    labels = np.concatenate([ours.train.labels, ours.test.labels])
    held = []
    for classifier in candidates(3, 24, 2):
        classifier.fit(train, data.train.labels)
        held.append(((classifier.predict(seen) == labels) & (classifier.certified_radius(seen) >= 3)).sum())
    recommended = [row["parameters"] == summary["recommended"]["parameters"] for row in summary["frontier"]]
    assert held[recommended.index(True)] == max(held) > min(held)
    assert "24 trusted pictures" in summary["chosen"]


def test_test_pictures_that_choose_are_reported_under_the_other_half_s_choice(certify: Certify) -> None:
    """By hand: the best on one half, among equals that of the largest median radius, answers the other half."""
    summary = run_certify(replace(certify, trusted="val", against="4"))
    assert "each half" in summary["chosen"]
    net, data = load_model("toy:factory"), load_data(certify.data)
    train, test = (extract_features(net, part, cache=certify.cache).matrix.numpy() for part in (data.train, data.test))
    half = np.array([int(content[:8], 16) % 2 == 0 for content in data.test.hashes])
    said = [one.fit(train, data.train.labels).answers(test) for one in candidates(4, 24, 2)]
    right = [one.codes == data.test.labels for one in said]
    held = 0
    for rows in (half, ~half):
        merits = [
            ((ok & (one.radius >= 4))[~rows].sum(), np.median(np.where(ok, one.radius, 0)[~rows]))
            for ok, one in zip(right, said, strict=True)
        ]
        best = merits.index(max(merits))
        held += (right[best] & (said[best].radius >= 4))[rows].sum()
    assert summary["recommended"]["certified"]["4"] == pytest.approx(held / len(half))


def test_no_half_is_reported_under_the_choice_that_it_made() -> None:
    """Each of two heads is right on one half alone: chosen by the other half, both are wrong."""
    labels, even = np.zeros(4, np.int64), np.array([True, True, False, False])
    said = [Answers(np.where(right, 0, 1), np.full(4, 9), np.full((4, 2), 0.5)) for right in (even, ~even)]
    run = SimpleNamespace(
        measured=[SimpleNamespace(test=one, trusted=one) for one in said],
        certify=SimpleNamespace(trusted="val"),
        parts={"trusted": SimpleNamespace(images=SimpleNamespace(labels=labels))},
        test=SimpleNamespace(hashes=["00000000", "00000002", "00000001", "00000003"]),
        against=1,
    )
    _, mixed, how = _chosen(run)
    assert mixed.codes.tolist() == [1, 1, 1, 1]
    assert "each half reported under the choice of the other" in how


def test_what_was_chosen_on_the_test_pictures_is_reported_as_the_halves_have_it(
    certify: Certify, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(run: Any) -> tuple[int, Answers, str]:
        best, said, how = _chosen(run)
        return best, Answers(1 - said.codes, said.radius, said.probabilities), how

    honest = run_certify(replace(certify, trusted="val"))["recommended"]["accuracy"]
    assert honest > 0.9
    monkeypatch.setattr("poisonfrogs.certify._chosen", wrong)
    assert run_certify(replace(certify, trusted="val"))["recommended"]["accuracy"] == pytest.approx(1 - honest)


def test_what_is_chosen_with_the_training_pictures_is_not_called_free_of_them(certify: Certify, tmp_path: Path) -> None:
    """The candidates of --trusted were fitted on them; the rule's head was not."""
    free = "the parameters of the head and the list of classes are given, not learnt from the training pictures"
    assert free in run_certify(certify)["assumptions"]
    head = tmp_path / "head.safetensors"
    assumed = run_certify(replace(certify, trusted="val", save=head))["assumptions"]
    assert free not in assumed
    assert "whoever changed training pictures before the choice had a part in it" in assumed[1]
    assert load_head(head).card["assumptions"] == assumed


def test_test_pictures_that_were_split_off_here_are_not_trusted(
    certify: Certify, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever adds a picture to class folders adds it to either side."""
    folders = toy.write_folder(tmp_path / "toy", train=20) / "train"
    line = given(replace(certify, data=folders))
    assert main([*line, "--trusted", "val"]) == 2
    refused(capsys, f"{folders} has no test split of its own: whoever adds training pictures adds test pictures too")
    assert not certify.out.exists()
    trusted = toy.write_folder(tmp_path / "trusted", seed=1000)
    assert main([*line, "--trusted", str(trusted)]) == main(line) == 0


# --- from the command line


def test_the_table_and_the_sentence(certify: Certify, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given(certify)) == 0
    out = capsys.readouterr().out
    summary = json.loads((certify.out / "summary.json").read_text())
    assert "the usual head" in out
    share = summary["recommended"]["certified"]["1"]
    said = f"inserts or removes up to 1 of your 24 training pictures cannot change {share:.1%} of the answers of a head with"
    assert said in " ".join(out.split())
    assert out.count("assumed: ") == len(summary["assumptions"]) >= 4
    for row in summary["frontier"]:
        assert f"{row['family']} " in out


def test_json_on_stdout_is_the_summary(certify: Certify, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given(certify, "--format", "json")) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((certify.out / "summary.json").read_text())
    assert err == ""


def test_fail_under(certify: Certify) -> None:
    """No head on 24 training pictures withstands 9 operations everywhere."""
    held = run_certify(replace(certify, against="9", trusted="val"))["recommended"]["certified"]["9"]
    assert held < 1
    more = ["--against", "9", "--trusted", "val", "--fail-under"]
    assert main(given(certify, *more, str(held))) == 0
    assert main(given(certify, *more, str(held + 0.01))) == 1


def test_what_the_command_line_would_refuse_is_refused_from_python(certify: Certify) -> None:
    assert replace(certify, against=1, trusted=Path("elsewhere")) == replace(certify, trusted="elsewhere")
    for given, said in (({"against": 0.01}, "--against 0.01 is of another"), ({"view": "x"}, "--view 'x' is unknown")):
        with pytest.raises(InputError, match=said):
            run_certify(replace(certify, **given))


@pytest.mark.parametrize(("against", "k"), [("2", [21]), ("3", []), ("5", []), ("7", [])])
def test_without_trusted_pictures_the_rule_holds_or_nothing_is_recommended(
    against: str, k: list[int], certify: Certify, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 24 training pictures; 3 operations would leave 16 neighbours, 7 would leave none."""
    assert main(given(certify, "--against", against, "--format", "json")) == (0 if k else 2)
    if k:
        assert [json.loads(capsys.readouterr().out)["recommended"]["parameters"]["k"]] == k
    else:
        refused(capsys, f"--against {against} is too much for 24 training pictures without --trusted")
        assert not certify.out.exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--against 0", "--against '0' is out of range; expected a number such as 20, or a share such as 1%"),
        ("--against 101%", "--against '101%' is out of range"),
        ("--against many", "--against 'many' is out of range"),
        ("--against 1.5", "--against '1.5' is out of range"),
        ("--against 50%", "too much for 24 training pictures without --trusted"),
        ("--against 25 --trusted val", "--against 25 is more than the 24 training pictures; give fewer"),
        ("--against 100000000000 --trusted val", "--against 100000000000 is more than the 24 training pictures"),
        ("--trusted nowhere", "nowhere does not exist"),
        ("--fail-under 2", "--fail-under 2.0 is out of range"),
        ("--head gone.safetensors", "to which --cache says nothing; it takes --model, --weights, --device, --threads"),
        ("--save nowhere/head.safetensors", "--save nowhere/head.safetensors is no place for a file"),
        ("--save .", "--save . is no place for a file"),
        ("another.png", "pictures to ask about need --head"),
        ("--threads 0", "--threads 0 is out of range"),
        ("--againts 3", "near names: --against"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    certify: Certify, more: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given(certify, *more.split())) == 2
    refused(capsys, says)
    assert not certify.out.exists()


def test_a_folder_of_something_else_is_left_alone(certify: Certify, capsys: pytest.CaptureFixture[str]) -> None:
    certify.out.mkdir()
    (certify.out / "thesis.tex").write_text("years of work")
    before = on_disk(certify.out)
    assert main(given(certify)) == 2
    refused(capsys, "holds 'thesis.tex', which is not of a run of certify")
    assert on_disk(certify.out) == before


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("plan.json", '{"shoes": 2}', "is not empty and holds no run of certify; choose another folder"),
        ("plan.json", '{"kind": "audit"}', "is not empty and holds no run of certify"),
        ("plan.json", "[torn", "is not empty and holds no run of certify"),
        ("summary.json", '{"mine": 1}', "is not empty and holds no run of certify"),
        ("report.html", "<h1>mine</h1>", "is not empty and holds no run of certify"),
        ("answers.jsonl", "", "is not empty and holds no run of certify"),
    ],
)
def test_a_file_of_another_that_has_a_name_of_ours_is_left_alone(
    name: str, content: str, says: str, certify: Certify, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    certify.out.mkdir()
    (certify.out / name).write_text(content)
    before = on_disk(certify.out)
    monkeypatch.setattr("poisonfrogs.certify._parts", None)  # nothing is computed
    assert main(given(certify)) == 2
    refused(capsys, says)
    assert on_disk(certify.out) == before


def test_a_report_that_is_no_page_is_left_alone(
    certify: Certify, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_certify(certify)
    (certify.out / "report.html").write_text("my notes")
    before = on_disk(certify.out)
    monkeypatch.setattr("poisonfrogs.certify._parts", None)
    assert main(given(certify)) == 2
    refused(capsys, "report.html is there already, and is no page; choose another --out")
    assert on_disk(certify.out) == before


@pytest.mark.parametrize("left", ["plan.json.partial", "summary.json.partial", "report.html.partial"])
@pytest.mark.parametrize("run_before", [False, True])
def test_what_a_kill_leaves_does_not_block_the_same_command(left: str, run_before: bool, certify: Certify) -> None:
    if run_before:
        assert main(given(certify)) == 0
    certify.out.mkdir(exist_ok=True)
    (certify.out / left).write_text("{ torn")
    assert main(given(certify)) == 0
    assert not (certify.out / left).exists()


@pytest.mark.parametrize("stopped_at", ["plan.json", "curves.json", "summary.json"])
def test_a_run_that_is_stopped_over_an_earlier_one_is_no_finished_run(
    stopped_at: str, certify: Certify, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a page of the new plan with the old figures; and the same command makes it whole."""
    assert main(given(certify, "--seed", "1")) == 0
    write_json = journal.write_json

    def stopped(path: Path, value: object) -> None:
        if path.name == stopped_at:
            raise KeyboardInterrupt
        write_json(path, value)

    with monkeypatch.context() as patched:
        patched.setattr("poisonfrogs.journal.write_json", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_certify(certify)
    assert not {"summary.json", "report.html"} & {child.name for child in certify.out.iterdir()}
    capsys.readouterr()
    assert main(["report", str(certify.out)]) == 2
    refused(capsys, "holds an unfinished run of certify; the same command makes it whole")
    assert main(given(certify)) == 0
    assert json.loads((certify.out / "summary.json").read_text())["seed"] == 0


def test_trusted_pictures_of_an_unknown_class_are_refused(
    certify: Certify, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trusted = toy.write_folder(tmp_path / "trusted")
    (trusted / "train" / "blue").rename(trusted / "train" / "green")
    (trusted / "val" / "blue").rename(trusted / "val" / "green")
    assert main(given(certify, "--trusted", str(trusted))) == 2
    refused(capsys, "has a class 'green' that the data does not have")


def test_the_bundled_pictures_are_not_those_that_were_signed_under_their_name(
    certify: Certify, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = Path(toy.write_folder(Path(BUNDLED)))
    public = signing.generate(Path("key"))
    provenance.sign(name, Path("key"))
    line = given(replace(certify, data=name), "--require-signed", str(public))
    assert main(line) == 2
    refused(capsys, "the bundled pictures are not signed; give a folder by its whole path")
    assert pipeline.loaded(replace(certify, data=name.absolute(), require_signed=public)).classes == ("blue", "red")


# --- saved heads

FITTED = [
    RadiusVotes(0.4),
    NeighbourVotes(7),
    NeighbourVotes(500),
    PartitionVotes(9),
    PartitionVotes(9, run_off=True),
    StableHead(5.0),
]


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training features and labels of three classes, and rows to ask about, with some that are of no use."""
    rng = np.random.default_rng(3)
    centres, y = rng.normal(size=(3, 12)), rng.integers(0, 3, 90)
    asked = rng.normal(size=(40, 12)).astype(np.float32)
    asked[3], asked[5, 2], asked[7] = 0, np.nan, 1e30
    return (centres[y] + rng.normal(size=(90, 12))).astype(np.float32), y, asked


@pytest.mark.parametrize("classifier", FITTED, ids=str)
def test_a_saved_head_answers_as_the_classifier_did(classifier, blobs, tmp_path: Path) -> None:
    x, y, asked = blobs
    classifier.fit(x, y)
    save_head(tmp_path / "h.safetensors", classifier, {"note": "mine"})
    head = load_head(tmp_path / "h.safetensors")
    expected = classifier.answers(asked)
    for mine, theirs in zip(head(torch.from_numpy(asked)), expected, strict=True):
        assert np.array_equal(mine.numpy(), theirs)
    assert head.card["note"] == "mine"
    assert head.card["dim"] == 12
    assert expected.radius.max() > 0
    behind = nn.Sequential(nn.Identity(), head)(torch.from_numpy(asked))
    assert torch.equal(behind.codes, torch.from_numpy(expected.codes))


@pytest.mark.parametrize("classifier", FITTED, ids=str)
def test_an_exported_head_answers_as_the_classifier_did(classifier, blobs, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    x, y, asked = blobs
    expected = classifier.fit(x, y).answers(asked)
    rows = torch.export.Dim("rows", min=2, max=4096)
    program = torch.onnx.export(
        classifier.head_, (torch.from_numpy(asked[:8]),), dynamo=True, dynamic_shapes=({0: rows},), verbose=False
    )
    program.save(tmp_path / "h.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "h.onnx")
    said = session.run(None, {session.get_inputs()[0].name: asked})
    assert np.array_equal(said[0], expected.codes)
    assert np.array_equal(said[1], expected.radius)
    assert np.allclose(said[2], expected.probabilities, atol=1e-6)


def test_pictures_are_answered_from_the_command_line(
    certify: Certify, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = tmp_path / "head.safetensors"
    run_certify(replace(certify, save=head))
    rows = [json.loads(line) for line in (certify.out / "answers.jsonl").read_text().splitlines()]
    pictures = [str(certify.data / row["id"]) for row in rows[:3]]
    assert main(["certify", *pictures, "--head", str(head), *OWN, "--format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema_version"] == 1
    assert [(one["predicted"], one["radius"]) for one in said["answers"]] == [
        (row["predicted"], row["radius"]) for row in rows[:3]
    ]
    assert main(["certify", pictures[0], "--head", str(head), *OWN]) == 0
    assert f"{rows[0]['predicted']}  radius {rows[0]['radius']}  {pictures[0]}" in capsys.readouterr().out


def test_what_one_s_own_network_prints_is_not_among_the_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("poisonfrogs.answering.ask", lambda *_: print("loading") or [])
    assert main(["certify", "a.png", "--head", "head", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["answers"], err) == ([], "loading\n")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--head gone.safetensors", "no head file gone.safetensors"),
        ("--head gone.safetensors --threads 0", "--threads 0 is out of range"),
        ("--head gone.safetensors --require-signed key.pub", "to which --require-signed says nothing"),
        ("--head gone.safetensors --fail-under 0.9", "to which --fail-under says nothing"),
        ("--head gone.safetensors --against 5", "to which --against says nothing"),
    ],
)
def test_what_a_saved_head_does_not_hear_is_refused(more: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", "a.png", *more.split()]) == 2
    refused(capsys, says)


@pytest.mark.parametrize("flag", ["--out", "--save"])
def test_nothing_is_written_among_the_data(flag: str, certify: Certify, capsys: pytest.CaptureFixture[str]) -> None:
    before = on_disk(certify.data)
    assert main([*given(certify), flag, f"{certify.data}/train/red/mine"]) == 2
    refused(capsys, "would lie inside", "which is only read")
    assert on_disk(certify.data) == before


@pytest.mark.parametrize("name", ["plan.json", "summary.json", "report.html", "answers.jsonl", ".lock"])
def test_a_head_does_not_take_the_place_of_a_file_of_the_run(
    name: str, certify: Certify, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given(certify, "--save", f"{certify.out}/{name}")) == 2
    refused(capsys, f"--save {certify.out}/{name} is where the run keeps a file of its own; choose another --save")
    assert not certify.out.exists()


def test_a_head_may_lie_in_the_run_folder_and_be_written_again(
    certify: Certify, capsys: pytest.CaptureFixture[str]
) -> None:
    head = certify.out / "head.safetensors"
    for _ in range(2):
        assert main(given(certify, "--save", str(head))) == 0
        load_head(head)
        (certify.out / "head.safetensors.partial").write_bytes(b"torn")
    capsys.readouterr()
    assert main(given(certify)) == 2
    refused(capsys, "holds 'head.safetensors")


def test_a_head_that_cannot_be_written_leaves_no_finished_run(
    certify: Certify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*anything: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("poisonfrogs.certify.save_head", full)
    with pytest.raises(OSError, match="No space"):
        run_certify(replace(certify, save=tmp_path / "head.safetensors"))
    assert not (certify.out / "summary.json").exists()


@pytest.mark.parametrize("kind", ["key", "text", "empty", "tensors", "pipe"])
def test_a_file_that_is_no_head_is_not_overwritten_by_one(
    kind: str, certify: Certify, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "thesis.txt"
    if kind == "tensors":
        save_file({"a": torch.zeros(1)}, path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text({"key": "-----BEGIN PRIVATE KEY-----", "text": "years of work", "empty": ""}[kind])
    before = on_disk(tmp_path)
    assert main(given(certify, "--save", str(path))) == 2
    says = "is no place for a file" if kind == "pipe" else "is there already, and is no head; choose another --save"
    refused(capsys, f"--save {path} {says}")
    assert on_disk(tmp_path) == before


def test_a_head_that_does_not_name_its_extractor_is_refused(certify: Certify, tmp_path: Path) -> None:
    fitted = NeighbourVotes(k=1).fit(np.eye(4), [0, 1, 0, 1])
    save_head(tmp_path / "head.safetensors", fitted, {})
    with pytest.raises(InputError, match="does not say which extractor"):
        ask(tmp_path / "head.safetensors", [certify.data / "val/red/00.png"], certify)


def test_a_head_is_not_asked_through_another_extractor(
    certify: Certify, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, other = tmp_path / "head.safetensors", toy.factory()
    run_certify(replace(certify, save=head))
    save_file({name: tensor + 0.01 for name, tensor in other.state_dict().items()}, tmp_path / "other.safetensors")
    picture = str(certify.data / "val/red/00.png")
    assert main(["certify", picture, "--head", str(head), *OWN, "--weights", str(tmp_path / "other.safetensors")]) == 2
    refused(capsys, "was fitted on toy:factory with other weights")
    Image.new("RGB", (9, 9)).save(tmp_path / "broken.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "broken.png").read_bytes()[:40])
    assert main(["certify", str(tmp_path / "broken.png"), "--head", str(head), *OWN]) == 2
    refused(capsys, "broken.png cannot be read")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"transform": {"mean": [0, 0, 0]}}, "another view of pictures than it has now; go back to that, or fit"),
        ({"code": "0" * 64}, "other code than it has now, or does not say with which; go back to that, or fit"),
        ({"code": None}, "other code than it has now, or does not say with which"),
    ],
)
def test_a_head_is_not_asked_through_a_network_that_has_changed(
    change: dict[str, Any], says: str, certify: Certify, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights may be the same all the while."""
    head = tmp_path / "head.safetensors"
    run_certify(replace(certify, save=head))
    _resaved(head, model=load_head(head).card["model"] | change)
    assert main(["certify", str(certify.data / "val/red/00.png"), "--head", str(head), *OWN]) == 2
    refused(capsys, f"{head} was fitted on toy:factory with {says}")


def test_a_head_does_not_choose_which_code_is_run(
    certify: Certify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever made the file wrote its card."""
    head, picture = tmp_path / "head.safetensors", str(certify.data / "val/red/00.png")
    run_certify(replace(certify, save=head))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom toy import factory\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    _resaved(head, model=load_head(head).card["model"] | {"name": "evil:factory"})
    assert main(["certify", picture, "--head", str(head)]) == 2
    refused(
        capsys, "was fitted on evil:factory, which is code, or a download; give --model evil:factory if you trust it"
    )
    assert main(["certify", picture, "--head", str(head), *OWN]) == 2
    refused(capsys, "was fitted on evil:factory, and --model is toy:factory; leave it away, or give that")
    assert not (tmp_path / "ran").exists()


def test_trusted_pictures_have_no_other_part(
    certify: Certify, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, said in (("train", "training"), ("val", "test")):
        trusted = tmp_path / f"of {split}"
        shutil.copytree(certify.data / split, trusted / "train")
        shutil.copytree(certify.data / split, trusted / "val")
        assert main(given(certify, "--trusted", str(trusted))) == 2
        refused(capsys, f"pictures of --trusted are {said} pictures of DATA as well")
        assert not certify.out.exists()


def test_the_code_of_a_library_s_network_is_not_asked_for(certify: Certify) -> None:
    """A head of before cards held code goes on being asked."""
    net = load_model("toy:factory")
    assert "code" in pipeline.extractor(certify, net)
    assert "code" not in pipeline.extractor(certify, replace(net, name="toy"))


def test_pictures_are_seen_as_training_pictures_are(
    certify: Certify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """More than a batch: the same answers as for all at once, never more than a batch in memory; no strips."""
    head = tmp_path / "head.safetensors"
    run_certify(replace(certify, save=head))
    pictures = sorted(certify.data.rglob("*.png"))[: 2 * BATCH + 3]
    features = load_model("toy:factory").features([Image.open(path).convert("RGB") for path in pictures])
    expected = load_head(head)(features)
    forward, sizes = Net.forward, []
    monkeypatch.setattr(Net, "forward", lambda net, pixels: sizes.append(len(pixels)) or forward(net, pixels))
    said = ask(head, pictures, certify)
    assert sizes == [BATCH, BATCH, 3]
    assert [one["radius"] for one in said] == expected.radius.tolist()
    assert [one["probabilities"] for one in said] == [rounded(row) for row in expected.probabilities]
    Image.new("RGB", (600_000, 1)).save(tmp_path / "strip.png")
    assert main(["certify", str(pictures[0]), str(tmp_path / "strip.png"), "--head", str(head), *OWN]) == 2
    refused(capsys, "strip.png cannot be read (600000×1 pixels: too long and thin for the view); expected a picture")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.write_bytes(b"no tensors"), "cannot be read"),
        (lambda path: save_file({"a": torch.zeros(1)}, path), "holds no certified head"),
        (lambda path: save_file({"a": torch.zeros(1)}, path, metadata={"card": "[" * 100_000}), "cannot be read"),
        (lambda path: _resaved(path, schema_version=99), "another version"),
        (lambda path: _resaved(path, family="magic"), "another version"),
        (lambda path: _resaved(path, family="stable"), "does not hold what"),
        (lambda path: _resaved(path, dim=13), "do not fit together"),
        (lambda path: _resaved(path, classes=["one"]), "do not fit together"),
        (lambda path: _resaved(path, family=[]), "another version"),
        (lambda path: _resaved(path, dim=0), "do not fit together"),
        (lambda path: _resaved(path, dim=10**30), "do not fit together"),
        (lambda path: _resaved(path, dim="12"), "do not fit together"),
        (lambda path: _resaved(path, switches={"least": None}), "do not fit together"),
        (lambda path: _resaved(path, switches={"least": 1, "member": 1}), "do not fit together"),
    ],
)
def test_a_file_that_is_no_head_is_refused(change, says: str, blobs, tmp_path: Path) -> None:
    x, y, _ = blobs
    path = tmp_path / "h.safetensors"
    save_head(path, RadiusVotes().fit(x, y), {})
    change(path)
    with pytest.raises(InputError, match=says):
        load_head(path)


@pytest.mark.parametrize("classifier", FITTED, ids=str)
def test_a_head_of_nothing_is_refused(classifier, blobs, tmp_path: Path) -> None:
    """Empty tensors, one by one; and no neighbours."""
    x, y, _ = blobs
    path = tmp_path / "h.safetensors"
    save_head(path, classifier.fit(x, y), {})
    held, card = load_file(path), load_head(path).card
    for name, tensor in held.items():
        save_file({**held, name: tensor[:0].clone()}, path, metadata={"card": json.dumps(card)})
        with pytest.raises(InputError, match="do not fit together"):
            load_head(path)
    save_file(held, path, metadata={"card": json.dumps(card)})
    if "k" in card["switches"]:
        _resaved(path, switches={"k": 0})
        with pytest.raises(InputError, match="do not fit together"):
            load_head(path)


def _resaved(path: Path, **changes: object) -> None:
    card = load_head(path).card | changes
    save_file(load_file(path), path, metadata={"card": json.dumps(card)})
