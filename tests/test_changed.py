"""What has changed since a run was begun or a cache filled is noticed: pictures, code, threads, files that went away."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import toy
from poisonfrogs import checks, data, end_to_end, journal, load_data, load_model, targets, trial
from poisonfrogs.attacks.collision import Collision
from poisonfrogs.audit import run_audit
from poisonfrogs.features import _key, features
from poisonfrogs.pictures import Gone, decode
from poisonfrogs.plan import Audit
from poisonfrogs.types import InputError
from runs import rows_of

pytestmark = pytest.mark.usefixtures("one_thread")

FACTORY = """
import torch, toy
from helper_of_a_user import chosen

def factory():
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 5), chosen(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    for number, parameter in enumerate(body.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    body.data_config = toy.Toy.data_config
    return body
"""


def own_network(folder: Path, activation: str) -> object:
    """A network of torch's own layers, one of them chosen by a module that no layer comes from."""
    (folder / "factory_of_a_user.py").write_text(FACTORY)
    (folder / "helper_of_a_user.py").write_text(f"import torch\nchosen = torch.nn.{activation}\n")
    for name in ("factory_of_a_user", "helper_of_a_user"):
        sys.modules.pop(name, None)
    return load_model("factory_of_a_user:factory")


def test_features_are_of_what_the_factory_builds_now(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    images = data.load(toy_folder).train
    for activation in ("ReLU", "Sigmoid"):
        net = own_network(tmp_path, activation)
        found = features(net, images, cache=tmp_path / "cache").matrix
        assert torch.equal(found, net.features([images[i] for i in range(len(images))]))


class Threaded(toy.Toy):
    """A network whose last bits depend on the number of threads, as those of large products do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1 + 2e-7 * (torch.get_num_threads() - 1))


@pytest.mark.parametrize(("name", "depends"), [("toy:factory", False), (f"{__name__}:Threaded", True)])
def test_features_are_of_so_many_threads_where_their_last_bits_are(name: str, depends: bool) -> None:
    net, before = load_model(name), torch.get_num_threads()
    keys = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        keys.append(_key(net))
    torch.set_num_threads(before)
    assert keys[0] == keys[2]
    assert (keys[0] != keys[1]) == depends


def test_a_clean_network_is_of_one_view(audit: Audit, data: Path) -> None:
    """The same architecture and the same start, of which two published names differ in how they see."""
    whole = Audit(data=data, context="end-to-end", cache=audit.cache, out=audit.out, threads=1, clean_epochs=1)
    clean, _ = end_to_end.prepared(whole, load_data(data), lambda *_: None)
    recipe, _ = end_to_end.recipes(whole, 24)
    other = replace(clean.net, view=replace(clean.net.view, interpolation="bilinear"))
    places = {end_to_end.kept_at(whole, net, clean.train, "f", clean.network, recipe, 0) for net in (clean.net, other)}
    assert len(places) == 2


TRAINED = """
import torch, toy
import helper_of_a_user

class Network(toy.Toy):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 5, stride=2)
        self.second = torch.nn.Conv2d(8, 16, 5, stride=2)

    def forward(self, x):
        return helper_of_a_user.act(self.second(helper_of_a_user.act(self.first(x)))).mean((2, 3))
"""


@pytest.mark.parametrize("context", ["end-to-end", "scratch"])
def test_a_network_is_trained_anew_where_what_its_code_calls_was_changed(
    context: str, audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the source of the network nor the weights that it starts from tell."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "network_of_a_user.py").write_text(TRAINED)
    mine = Audit(
        data=audit.data, context=context, model="network_of_a_user:Network", cache=tmp_path / "cache", threads=1,
        out=audit.out, clean_epochs=1, epochs=1, passes=1, targets=1, poisons=1,
    )  # fmt: skip

    def helped(activation: str) -> None:
        (tmp_path / "helper_of_a_user.py").write_text(f"import torch\nact = torch.{activation}\n")
        for name in ("network_of_a_user", "helper_of_a_user"):
            sys.modules.pop(name, None)

    def kept() -> int:
        return len(list((tmp_path / "cache/networks").glob("*.safetensors")))

    helped("relu")
    run_audit(mine)
    run_audit(mine)
    assert kept() == 2  # the clean network, and the control
    helped("tanh")
    with pytest.raises(InputError, match=r"holds a run of another plan \(model.weights was"):
        run_audit(mine)
    run_audit(replace(mine, out=tmp_path / "anew"))
    assert kept() == 4


def test_a_frozen_network_is_another_where_what_its_code_calls_was_changed(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    mine = replace(audit, model="factory_of_a_user:factory", auditor="factory_of_a_user:factory")
    own_network(tmp_path, "ReLU")
    run_audit(mine)
    run_audit(mine)
    held = json.loads((audit.out / "plan.json").read_text())
    assert held["auditor"]["said"] == held["model"]["said"]
    own_network(tmp_path, "Sigmoid")
    with pytest.raises(InputError, match=r"holds a run of another plan \(model.said was"):
        run_audit(mine)


def test_a_target_from_outside_that_was_replaced_is_noticed(audit: Audit, tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    toy.picture(toy.CLASSES["red"], 999).save(path)
    mine = replace(audit, target=(str(path),), target_class="red", base_choice="random")
    run_audit(mine)
    run_audit(mine)
    toy.picture(toy.CLASSES["red"], 998).save(path)
    with pytest.raises(InputError, match=r"holds a run of another plan \(data.targets was"):
        run_audit(mine)


def test_a_network_of_one_s_own_whose_code_was_changed_is_noticed(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_audit(audit)
    source = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda module: source(module) + "# changed")
    with pytest.raises(InputError, match=r"holds a run of another plan \(model.code was"):
        run_audit(audit)


def test_training_code_that_was_changed_between_groups_is_said(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = replace(audit, victim="toy:victim", head="paper", targets=20)
    found = run_audit(mine)
    assert "mixed_victims" not in [check["name"] for check in found["checks"]]
    path = audit.out / "journal.jsonl"
    path.write_bytes(b"".join(map(journal.encode, rows_of(audit)[:16])))
    timings = journal.rows(audit.out / "timings.jsonl")
    (audit.out / "timings.jsonl").write_bytes(journal.encode(timings[0] | {"victim": "0" * 64}))
    assert "mixed_victims" in [check["name"] for check in run_audit(mine)["checks"]]
    assert checks.of_victims(["a", "a"]) == []


def test_a_file_that_went_away_is_no_unreadable_picture(toy_folder: Path, tmp_path: Path) -> None:
    net, images = load_model("toy:factory"), data.load(toy_folder).train
    path = toy_folder / images.ids[3]
    path.rename(tmp_path / "away.png")
    with pytest.raises(InputError, match=r"No such file or directory; .*was there when the data were listed"):
        features(net, images, cache=tmp_path / "cache")
    (tmp_path / "away.png").rename(path)
    found = features(net, images, cache=tmp_path / "cache")
    assert found.unreadable == {}
    assert isinstance(Gone("why"), InputError)


def test_a_picture_that_took_another_s_place_is_not_read_in_its_stead(toy_folder: Path, tmp_path: Path) -> None:
    net, images = load_model("toy:factory"), data.load(toy_folder).train
    path, before = toy_folder / images.ids[3], (toy_folder / images.ids[3]).read_bytes()
    path.write_bytes((toy_folder / images.ids[4]).read_bytes())
    with pytest.raises(
        InputError, match=rf"{images.ids[3]} is another file now than when the data were listed; start again"
    ):
        features(net, images, cache=tmp_path / "cache")
    with pytest.raises(InputError, match="is another file now"):
        images[3]
    path.write_bytes(before)
    assert features(net, images, cache=tmp_path / "cache").unreadable == {}


def test_a_lack_of_memory_is_no_property_of_a_picture(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> object:
        raise MemoryError

    monkeypatch.setattr("poisonfrogs.pictures._to_rgb", none_left)
    with pytest.raises(MemoryError):
        decode((toy_folder / "train" / "red" / "00.png").read_bytes())


def test_crafting_in_portions_crafts_each_poison_for_its_own_target(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = replace(audit, poisons=2, passes=6)
    run_audit(mine)
    sizes = []
    call = Collision.__call__

    def counting(self: object, net: object, bases: list[object], goals: object, **more: object) -> object:
        sizes.append(len(bases))
        return call(self, net, bases, goals, **more)

    monkeypatch.setattr(Collision, "__call__", counting)
    monkeypatch.setattr(trial, "AT_ONCE", 4 * 5 * 3 * 32 * 32)  # two trials of two poisons
    run_audit(replace(mine, out=audit.out / "portions"))
    assert sizes == [4, 4, 4]
    whole, parts = rows_of(mine), rows_of(replace(mine, out=audit.out / "portions"))
    for one, other in zip(whole, parts, strict=True):
        assert one["distance_after"] == pytest.approx(other["distance_after"], rel=1e-3)
        assert one["base_ids"] == other["base_ids"]


def test_every_class_has_its_turn() -> None:
    labels = np.repeat(np.arange(10), 8)
    drawn = targets.draw(20, labels, range(80), targets.pairs(10, None, None), seed=0)
    assert np.bincount([labels[row] for row, _ in drawn]).tolist() == [2] * 10
    assert np.bincount([base for _, base in drawn]).tolist() == [2] * 10
    assert len(set(targets.pairs(10, None, None))) == 90


def test_more_targets_than_the_clean_classifier_gets_right_are_called_that() -> None:
    labels, sure = np.array([0, 0, 0, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [0.1, 0.9], [0.1, 0.9]])
    assert targets.draw(2, labels, range(4), [(0, 1)], 0, sure) == [(1, 1), (0, 1)]
    with pytest.raises(InputError, match="more than the 2 test pictures of the classes asked for that the clean class"):
        targets.draw(3, labels, range(4), [(0, 1)], 0, sure)
    with pytest.raises(InputError, match="--targets 4 is more than the 3 test pictures of the classes asked for; give"):
        targets.draw(4, labels, range(4), [(0, 1)], 0)


def test_named_targets_are_not_chosen_as_well(audit: Audit) -> None:
    with pytest.raises(InputError, match="--target names the pictures that --target-choice would choose; give one"):
        run_audit(replace(audit, target=("val/red/00.png",), target_choice="least-confident"))


def test_the_plan_names_the_contents_of_targets_from_outside_alone(audit: Audit) -> None:
    run_audit(audit)
    held = json.loads((audit.out / "plan.json").read_text())
    assert "targets" not in held["data"]
    assert held["model"]["code"]
