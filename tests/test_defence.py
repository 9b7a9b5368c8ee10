"""The certified head as a second victim in audits of toy data."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from poisonfrogs import NeighbourVotes, extract_features, load_data, load_model, pictures
from poisonfrogs.audit import run_audit
from poisonfrogs.certified import Answers
from poisonfrogs.cli import main
from poisonfrogs.defence import Defence, prototype
from poisonfrogs.plan import Audit
from poisonfrogs.stats import wilson
from poisonfrogs.types import InputError
from runs import refused, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("replacing", [False, True])
def test_the_certified_head_is_asked_on_the_stored_poisons(audit: Audit, replacing: bool) -> None:
    """By hand: fitted on the clean set, and with the features of the poisons as read back from their files."""
    summary = run_audit(replace(audit, head="certified:neighbours:5", poisons=2, replace=replacing))
    net, data = load_model("toy:factory"), load_data(audit.data)
    train, test = (extract_features(net, part, cache=audit.cache).matrix.numpy() for part in (data.train, data.test))
    clean = NeighbourVotes(5, classes=[0, 1]).fit(train, data.train.labels)
    for row in rows_of(audit):
        found, target = row["certified"], test[data.test.ids.index(row["target_id"])][None]
        assert found["predicted"] == data.classes[clean.predict(target)[0]]
        assert found["radius"] == clean.certified_radius(target)[0]
        stored = [pictures.decode((audit.out / file).read_bytes()).image for file in row["poison_files"]]
        gone = [data.train.ids.index(name) for name in row["base_ids"]] if replacing else []
        kept, labels = np.delete(train, gone, axis=0), np.delete(data.train.labels, gone)
        base = data.classes.index(row["base_class"])
        for added, key in ((net.features(stored).numpy(), "poisoned"), (np.repeat(target, 2, axis=0), "perfect")):
            head = NeighbourVotes(5, classes=[0, 1]).fit(np.vstack([kept, added]), np.append(labels, [base] * 2))
            assert found[key] == data.classes[head.predict(target)[0]]
        assert not found["broken"]
    assert summary["certified"]["accuracy"] == pytest.approx((clean.predict(test) == data.test.labels).mean())
    assert summary["certified_success_rate"] == summary["certified"]["success_rate"]


def test_what_the_head_s_figures_count() -> None:
    """By hand: of five answers, the last wrong; of three trials, the last no target of this head."""
    said = Answers(np.array([0, 0, 1, 1, 0]), np.array([0, 1, 2, 3, 9]), None)
    features, labels = np.zeros((300, 2), np.float32), np.zeros(300, np.int64)
    head = Defence(NeighbourVotes(3, classes=[0, 1]), features, labels, said, np.array([0, 0, 1, 1, 1]))
    keys = ("right", "success", "perfect_success", "broken")
    told = [(True, True, True, False), (True, False, True, False), (False, False, False, False)]
    found = head.counted([{"certified": dict(zip(keys, one, strict=True))} for one in told])
    assert (found["accuracy"], found["median_radius"]) == (0.8, 1.0)  # of 0, 1, 2, 3, and 0 for the wrong one
    assert found["certified"] == {"1": 0.6, "3": 0.2}  # a radius of r stands r operations
    assert (found["n_eligible"], found["n_success"], found["n_perfect_success"]) == (2, 1, 2)
    assert (found["success_rate"], found["perfect_success_rate"]) == (0.5, 1.0)
    assert found["ci95"] == pytest.approx(wilson(1, 2), abs=1e-6)
    assert found["perfect_ci95"] == pytest.approx(wilson(2, 2), abs=1e-6)


def test_a_perfect_collision_fells_the_nearest_neighbour_and_not_many(audit: Audit) -> None:
    """The attack attacks: a head with radius 0 falls every time, one with a radius never."""
    weak = run_audit(replace(audit, head="certified:neighbours:1"))["certified"]
    assert weak["n_perfect_success"] == weak["n_eligible"] > 0
    assert all(row["certified"]["radius"] == 0 for row in rows_of(audit))
    strong = run_audit(replace(audit, head="certified", out=audit.out / "strong"))["certified"]
    assert strong["parameters"] == {"k": 11}
    assert strong["n_perfect_success"] == strong["n_success"] == 0
    assert strong["certified"]["1"] > 0.9


def test_the_usual_head_s_figures_are_those_without_it(audit: Audit) -> None:
    beside = run_audit(replace(audit, head="certified"))
    alone = run_audit(replace(audit, head="paper", out=audit.out / "alone"))
    assert alone["certified"] is None
    assert alone["certified_success_rate"] is None
    for key in ("n_success", "success_rate", "median_confidence", "clean_accuracy"):
        assert beside[key] == alone[key]


def test_a_certificate_that_does_not_hold_is_an_alarm(
    audit: Audit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Radii that are too large by one are noticed, and the run ends with 3."""
    honest = NeighbourVotes.answers

    def boasting(self, features):
        said = honest(self, features)
        return Answers(said.codes, said.radius + 1, said.probabilities)

    monkeypatch.setattr(NeighbourVotes, "answers", boasting)
    given = f"audit {audit.data} --model toy:factory --out {audit.out} --cache {audit.cache} --threads 1 --passes 2"
    given += " --targets 6 --head certified:neighbours:1 --format json"
    assert main(given.split()) == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary["certified"]["n_broken"] > 0
    assert "broken_certificate" in [check["name"] for check in summary["checks"]]


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("certified:magic", "expected certified:FAMILY, one of radius, neighbours, partitions, stable"),
        ("certified:neighbours:0", "k is out of range"),
        ("certified:neighbours:many", "'many' is no number; expected a number for k, such as certified:neighbours:1"),
        ("certified:radius:1.5", "threshold is out of range"),
        ("certified:partitions:0", "n_partitions is out of range"),
        ("certified:stable:nan", "alpha is out of range"),
    ],
)
def test_a_head_that_cannot_be_is_refused(
    audit: Audit, head: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=says):
        prototype(head)
    line = f"audit {audit.data} --model toy:factory --out {audit.out} --cache {audit.cache} --head {head}"
    assert main(line.split()) == 2
    refused(capsys, says)
    assert not audit.out.exists()


def test_both_heads_are_said_in_the_end(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"audit {audit.data} --model toy:factory --out {audit.out} --cache {audit.cache} --threads 1 --passes 3"
    assert main([*line.split(), "--targets", "6", "--head", "certified"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    found = json.loads((audit.out / "summary.json").read_text())["certified"]
    assert "targets fell to one correctly labelled poison each" in said
    assert (
        f"Under the certified head (neighbours, accuracy {found['accuracy']:.2%}) 0 of {found['n_eligible']} fell"
        in said
    )
    assert f"{found['certified']['1']:.1%} against 1 operation." in said
