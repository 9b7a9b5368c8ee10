"""Audits whose victims train every layer, on toy pictures: what is shared, kept, repeated, refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import toy
from poisonfrogs import InputError, end_to_end, pipeline, run_audit, training, write_report
from poisonfrogs.cli import main
from poisonfrogs.cli.show import report
from poisonfrogs.costs import costs
from poisonfrogs.data import load
from poisonfrogs.end_to_end import EndToEnd, pixels, prepared
from poisonfrogs.models import Net
from poisonfrogs.pictures import decode, encode
from poisonfrogs.plan import DEFAULTS, Audit, seed_of
from poisonfrogs.report.folder import open_audit
from poisonfrogs.report.projection import plane
from poisonfrogs.report.sections import space
from poisonfrogs.training import Trained, Training
from runs import on_disk, rows_of

LAYERS = ("conv1", "conv2", "conv3", "full1", "full2")
BATCH = 16  # pictures; of sets as small as these
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small(toy_folder: Path, tmp_path: Path, cache: Path) -> Audit:
    """Four trials, two to a seed, three poisons each; a few seconds."""
    return Audit(
        data=toy_folder, context="end-to-end", out=tmp_path / "run", cache=cache, threads=1, precision="fp32",
        targets=4, poisons=3, passes=4, clean_epochs=3, epochs=2, learning_rate=1e-3, trials_per_seed=2,
    )  # fmt: skip


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pictures of every training that takes place."""
    seen: list[int] = []
    plainly = Training.__call__

    def counted(self, start, sets, **more):
        seen.extend(len(data) for data in sets if len(data) > BATCH)  # what tells the time ahead trains on one batch
        return plainly(self, start, sets, **more)

    monkeypatch.setattr(Training, "__call__", counted)
    return seen


def journal_of(audit: Audit) -> bytes:
    return (audit.out / "journal.jsonl").read_bytes()


def test_each_trial_trains_two_victims_and_a_control_serves_all_of_a_seed(small, tmp_path, trainings):
    fresh = replace(small, cache=tmp_path / "cache")
    summary = run_audit(fresh)
    # the clean network; of each seed: poisoned, watermark only, control, and poisoned and watermark only once more
    assert trainings == [24, *[27, 27, 24, 27, 27] * 2]
    assert len(list((tmp_path / "cache/networks").glob("*.safetensors"))) == 3
    assert summary["n_trials"] == 4
    assert summary["watermark_only_rate"] is not None
    assert summary["clean_network"]["training_accuracy"] == 1
    rows = rows_of(fresh)
    assert [row["group"] for row in rows] == [0, 1, 2, 3]
    plan = json.loads((fresh.out / "plan.json").read_bytes())
    asked = [plan["data"]["classes"][int(np.argmax(row["control_probabilities"]))] for row in rows]
    assert asked == [row["target_class"] for row in rows]  # each asks about its own target
    assert len(set(asked)) == 2
    assert [trial["block"] for trial in plan["trials"]] == [0, 0, 1, 1]
    assert (plan["audit"]["eps"], plan["audit"]["watermark"], plan["audit"]["beta"]) == (None, 0.3, 0.1)
    assert plan["clean_network"] == summary["clean_network"]


def test_gradients_that_are_off_are_on_where_networks_are_trained(small, tmp_path, monkeypatch):
    """Turned off for good by the user's own module, as it is imported; or by the program, for a grid and its clock."""
    plainly = end_to_end.fresh

    def careless(*given):
        torch.set_grad_enabled(False)
        return plainly(*given)

    monkeypatch.setattr(end_to_end, "fresh", careless)
    assert run_audit(replace(small, targets=1, cache=tmp_path / "cache"))["n_failed_trials"] == 0
    assert torch.is_grad_enabled()
    with torch.inference_mode():
        assert all(seconds > 0 for seconds in end_to_end.seconds_ahead(small, load(small.data)))


def test_a_second_run_finds_networks_and_features_and_leaves_the_same_bytes(small, tmp_path, trainings):
    small = replace(small, cache=tmp_path / "cache")
    run_audit(small)
    first = journal_of(small)
    trainings.clear()
    again = replace(small, out=tmp_path / "again")
    run_audit(again)
    assert trainings == [27] * 8  # neither the clean network nor a control
    assert len(list((small.cache / "features").glob("*.sqlite"))) == 1
    assert journal_of(again) == first
    same = on_disk(small.out / "features"), on_disk(again.out / "features")
    assert same[0] == same[1]


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(small, tmp_path):
    class Stopped(Exception):
        pass

    def stop(stage: str, done: int, of: int) -> None:
        if stage.startswith("crafting") and done == 3:
            raise Stopped

    run_audit(small)
    stopped = replace(small, out=tmp_path / "stopped")
    with pytest.raises(Stopped):
        run_audit(stopped, progress=stop)
    assert len(rows_of(stopped)) == 3
    run_audit(stopped)
    assert journal_of(stopped) == journal_of(small)


def test_the_judge_s_victim_is_the_clean_network_trained_on_the_pictures_and_the_poisons(small):
    """A second implementation: the recipe by hand, on tensors made by hand."""
    run_audit(small)
    row, data = rows_of(small)[0], load(small.data)
    clean, _ = prepared(small, data, lambda *_: None)

    def tensor(images) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)

    poisons = [Image.open(small.out / file) for file in row["poison_files"]]
    shown = torch.cat([tensor(data.train), tensor(poisons)])
    labels = [*data.train.labels.tolist(), *[data.classes.index(row["base_class"])] * 3]
    pixels = replace(clean.train, pictures=shown, labels=torch.tensor(labels))
    recipe = Training(epochs=2, learning_rate=1e-3, batch_size=16, schedule="constant", precision="fp32")
    seed = seed_of(0, "victim", 0)
    trained, control = recipe(clean.network, [pixels, clean.train], seed=seed)
    victim = trained.network
    asked = replace(
        clean.test, pictures=tensor([data.test[data.test.ids.index(row["target_id"])]]), labels=torch.zeros(1)
    )
    said = training.probabilities(victim, asked)[0]
    assert said.tolist() == pytest.approx(row["probabilities"], abs=1e-5)
    # the boundary between the two classes, poisoned against clean, after each of the two epochs
    short, *_ = replace(recipe, epochs=1)(clean.network, [pixels], seed=seed)
    other, *_ = replace(recipe, epochs=1)(clean.network, [clean.train], seed=seed)
    pairs = [(short.network, other.network), (victim, control.network)]
    a, b = data.classes.index(row["base_class"]), data.classes.index(row["target_class"])
    for found, pair in zip(row["boundary_rotation"], pairs, strict=True):
        one, two = ((net.linear.weight[a] - net.linear.weight[b]).double().numpy() for net in pair)
        cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
        assert found == pytest.approx(np.degrees(np.arccos(cosine)), abs=2e-3)
    assert row["boundary_rotation"][-1] == row["rotation_degrees"]
    turned = row["layer_rotation"]
    assert list(turned) == ["poisoned", "control", "watermark_only"]
    assert list(turned["poisoned"]) == [*(f"body.{name}.weight" for name in LAYERS), "linear.weight"]
    before, after = (net.body.conv2.weight.flatten().double().numpy() for net in (clean.network, victim))
    cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
    assert turned["poisoned"]["body.conv2.weight"][1] == pytest.approx(np.degrees(np.arccos(cosine)), abs=2e-3)


def test_the_time_ahead_is_of_crafting_as_it_is_done(small, monkeypatch):
    asked, plainly = [], Net.extractor
    monkeypatch.setattr(
        Net, "extractor", lambda net, precision, *more: asked.append(precision) or plainly(net, precision, *more)
    )
    assert costs(replace(small, precision="bf16"), load(small.data)).crafting > 0
    run_audit(replace(small, precision="bf16"))
    assert set(asked) == {"fp32"}


def test_from_scratch_every_victim_has_its_own_beginning(small, tmp_path):
    scratch = replace(small, context="scratch", cache=tmp_path / "cache", epochs=4, learning_rate=3e-3)
    run_audit(scratch)
    turned = [row["rotation_degrees"] for row in rows_of(scratch)]
    assert all(0 < angle < 180 for angle in turned)
    controls = list((scratch.cache / "networks").glob("*.safetensors"))
    weights = {tuple(load_file(path)["linear.bias"].tolist()) for path in controls}
    assert len(weights) == len(controls)


def test_a_victim_whose_loss_is_no_number_fails_and_is_counted(small, monkeypatch):
    train = Training.__call__

    def diverged(self, start, sets, **options):
        said = "the training loss is not a finite number in epoch 1"
        edited = [len(data) > 24 for data in sets]
        trained = train(self, start, sets, **options)
        return [
            replace(one, failure=said) if is_edited else one for one, is_edited in zip(trained, edited, strict=True)
        ]

    monkeypatch.setattr(Training, "__call__", diverged)
    summary = run_audit(small)
    assert summary["n_failed_trials"] == 4
    assert summary["n_eligible"] == 4
    assert summary["success_rate"] == 0
    assert {row["failure"] for row in rows_of(small)} == {"the training loss is not a finite number in epoch 1"}
    assert "failed_trials" in {check["name"] for check in summary["checks"]}


def test_a_watermark_alone_that_cannot_be_trained_is_not_counted_as_harmless(small, monkeypatch):
    """Of the two edited sets of a trial, the second is that with the watermarked bases alone."""
    train = Training.__call__

    def diverged(self, start, sets, **options):
        trained = train(self, start, sets, **options)
        return [replace(one, failure="no number") if i == 1 else one for i, one in enumerate(trained)]

    monkeypatch.setattr(Training, "__call__", diverged)
    summary = run_audit(small)
    assert (summary["n_failed_trials"], summary["n_success"], summary["success_rate"]) == (4, 0, 0)
    assert {row["watermark_only_success"] for row in rows_of(small)} == {None}
    assert summary["watermark_only_rate"] is None
    assert summary["mean_accuracy_drop"] is summary["worst_accuracy_drop"] is None
    assert "every trial failed" in "".join(report(small, summary))
    assert write_report(small.out).finished


@pytest.fixture
def large_weights(monkeypatch):
    """Call it with which trainings are to end in weights that are finite and too large to say anything with."""
    train = Training.__call__

    def begin(is_one):
        def overflown(self, start, sets, **options):
            trained = train(self, start, sets, **options)
            for one, data in zip(trained, sets, strict=True):
                if is_one(len(data)):
                    one.network.linear.weight.fill_(3e38)
                    one.network.linear.bias.fill_(-3e38)
            return trained

        monkeypatch.setattr(Training, "__call__", overflown)

    return begin


def test_a_victim_that_says_nothing_finite_has_failed(small, large_weights):
    large_weights(lambda pictures: pictures > 24)
    assert run_audit(small)["n_failed_trials"] == 4
    assert {row["failure"] for row in rows_of(small)} == {"what it says is not a finite number"}


def test_a_clean_network_that_says_nothing_finite_is_refused_and_not_kept(small, large_weights, tmp_path):
    large_weights(lambda pictures: True)
    with pytest.raises(InputError, match=r"pictures \(the loss after the last epoch is not a finite number\); give"):
        run_audit(replace(small, cache=tmp_path / "cache"))
    assert not list((tmp_path / "cache/networks").glob("*.safetensors"))


@pytest.mark.parametrize("store", ["png", "jpeg:40"])
def test_what_is_compared_to_the_poisons_is_stored_as_they_are(small, store, monkeypatch):
    seen = []
    judged = EndToEnd.__call__

    def watched(self, scene, edits, targets, **more):
        seen.extend((scene, edit, target) for edit, target in zip(edits, targets, strict=True) if edit.added)
        return judged(self, scene, edits, targets, **more)

    monkeypatch.setattr(EndToEnd, "__call__", watched)
    run_audit(replace(small, store=store, targets=1))
    (row,), (scene, edit, target) = rows_of(small), seen[1]  # poisoned, watermark only
    for base, found in zip(row["base_ids"], edit.added, strict=True):
        marked = Image.blend(scene.train[scene.train.ids.index(base)], scene.targets[target], 0.3)
        expected = decode(encode(np.asarray(marked), store)).image
        assert np.array_equal(np.asarray(found), np.asarray(expected))
        assert np.array_equal(np.asarray(found), np.asarray(marked)) == (store == "png")


class Tied(toy.Toy):
    """Two layers that share their weights, as autoencoders have."""

    def __init__(self):
        super().__init__()
        self.again = nn.Linear(16, 16)
        self.more = nn.Linear(16, 16)
        self.more.weight = self.again.weight

    def forward(self, x):
        return self.more(torch.relu(self.again(super().forward(x))))


def test_layers_may_share_their_weights(small, tmp_path, trainings):
    tied = replace(small, model=f"{__name__}:Tied", cache=tmp_path / "cache")
    run_audit(tied)
    trainings.clear()
    run_audit(replace(tied, out=tmp_path / "again"))
    assert trainings == [27] * 8
    assert journal_of(replace(tied, out=tmp_path / "again")) == journal_of(tied)


def test_a_network_that_is_the_same_under_every_seed_is_no_start_from_nothing(small):
    with pytest.raises(InputError, match=r"toy:factory has the same weights under every seed.*; let its factory draw"):
        run_audit(replace(small, model="toy:factory", context="scratch"))
    assert run_audit(replace(small, model="toy:factory", targets=1))["n_trials"] == 1


class InTraining(toy.Toy):
    """A network that works until it is trained."""

    def forward(self, x):
        if self.training:
            raise ValueError("no step counter")
        return super().forward(x)


def test_no_memory_for_the_first_look_at_a_network_is_refused_in_a_line(small, monkeypatch):
    def forward(net: Net, pixels: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Net, "forward", forward)
    with pytest.raises(InputError, match="there is not enough memory to train every layer; give a smaller --size"):
        run_audit(small)


def test_what_a_network_raises_in_training_alone_is_refused_in_a_line(small, capsys):
    given = f"audit {small.data} --out {small.out} --cache {small.cache} --context end-to-end --targets 4 --poisons 2"
    assert main([*given.split(), "--model", f"{__name__}:InTraining"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "the network cannot be trained, it raised ValueError: no step counter (" in err
    assert not small.out.exists()


def test_pictures_none_of_which_can_be_read_are_refused_as_that(small):
    for path in (small.data / "train").rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"none of 24 pictures can be read \(train/blue/00.png: not a picture in one"):
        run_audit(small)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_pictures_that_do_not_fit_in_memory_are_refused_as_that(small, monkeypatch, error):
    def stacked(pictures: object) -> None:
        raise error

    net = pipeline.network(small, untrained=True)
    monkeypatch.setattr(torch, "stack", stacked)
    with pytest.raises(InputError, match="24 pictures do not fit in memory at once"):
        pixels(net, load(small.data).train, lambda done: None)


def test_the_feature_spaces_of_a_group_are_each_trial_s_own(small, monkeypatch):
    """On a GPU a group is all trials of a seed."""
    monkeypatch.setattr("poisonfrogs.audit._together", lambda *_: 2)
    run_audit(replace(small, targets=2))
    run = open_audit(small.out, json.loads((small.out / "plan.json").read_bytes()))
    clean, held = run.tensors("clean"), run.tensors("000000")
    assert not np.array_equal(held["victim_target"][0], held["victim_target"][1])
    for place, one in enumerate(run.outcomes):
        own = {name.removeprefix("victim_"): rows[place] for name, rows in held.items() if name.startswith("victim_")}
        seen = plane(*own["means"], own["normal"], float(own["offset"]))
        ((x, y),) = seen(own["target"])
        drawn = space._panel(run, one, "", clean)
        assert ["target", f"{x:.3f}", f"{y:.3f}"] in [row[:3] for row in drawn.after.table.rows]


def test_classes_of_unequal_size_stand_in_one_group(small, monkeypatch):
    """A sample of fewer pictures is filled up with rows of no class."""
    for split, count in (("train", 5), ("val", 3)):
        folder = small.data / split / "green"
        folder.mkdir()
        for number in range(count):
            toy.picture((20, 200, 20), 100 * count + number).save(folder / f"{number}.png")
    monkeypatch.setattr("poisonfrogs.audit._together", lambda *_: 4)
    run_audit(small)
    run = open_audit(small.out, json.loads((small.out / "plan.json").read_bytes()))
    labels = run.tensors("000000")["victim_labels"]
    sizes = {"red": 12, "blue": 12, "green": 5}
    for row, one in zip(labels, run.outcomes, strict=True):
        assert (row >= 0).sum() == sizes[one.base_class] + sizes[one.target_class]
    assert len({(row >= 0).sum() for row in labels}) == 2


def test_the_least_confident_of_those_that_are_right_are_attacked_first(small):
    chosen = replace(small, target_choice="least-confident", target_class="red", base_class="blue", targets=2)
    run_audit(chosen)
    data = load(chosen.data)
    clean, _ = prepared(chosen, data, lambda *_: None)
    said = training.probabilities(clean.network, clean.test).numpy()
    red = data.classes.index("red")
    right = [i for i in range(len(said)) if said[i].argmax() == red == data.test.labels[i]]
    expected = sorted(right, key=lambda i: said[i, red])[:2]
    assert [row["target_id"] for row in rows_of(chosen)] == [data.test.ids[i] for i in expected]


def test_pictures_of_any_sizes_become_those_of_the_network(small, tmp_path):
    toy.picture((60, 80, 170), 99, (50, 40)).save(small.data / "train/blue/99.png")
    assert run_audit(replace(small, targets=1))["n_trials"] == 1


def test_what_cannot_be_read_is_left_out_and_named(small):
    (small.data / "train/blue/98.png").write_bytes(b"no picture")
    (small.data / "val/red/98.png").write_bytes(b"no picture")
    summary = run_audit(replace(small, targets=1))
    assert "skipped_pictures" in {check["name"] for check in summary["checks"]}
    skipped = json.loads((small.out / "plan.json").read_bytes())["data"]["skipped"]
    assert sorted(skipped) == ["train/blue/98.png", "val/red/98.png"]


def test_a_library_s_network_is_trained_from_nothing_too(small):
    resnet = replace(small, model="resnet10t", size=32, clean_epochs=2, epochs=1, passes=1, targets=1)
    summary = run_audit(resnet)
    assert "random weights" in summary["model"]["source"]


def test_outside_targets_are_judged(small, tmp_path):
    toy.picture((170, 80, 60), 77).save(tmp_path / "mine.png")
    run_audit(replace(small, target=(str(tmp_path / "mine.png"),), target_class="red"))
    assert rows_of(small)[0]["target_id"] == str(tmp_path / "mine.png")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--poisons 13", "--poisons 13 is more than the 12 training pictures of class"),
        ("--head logistic:1", "leave --head away"),
        ("--learning-rate 0", "--learning-rate 0.0 is out of range"),
        ("--epochs 0", "--epochs 0 is out of range"),
        ("--context scratch --model alexnet32=w.safetensors", "starts from random weights"),
        ("--context transfer", "--epochs is about training every layer"),
        ("--size 7 --poisons 1", "does not accept pictures of (7, 7)"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(small, capsys, given, said, monkeypatch):
    start = f"audit {small.data} --out {small.out} --cache {small.cache} --context end-to-end --epochs 1 --targets 4"
    assert main([*start.split(), *given.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not small.out.exists()


def test_a_clean_network_that_cannot_be_trained_is_refused(small, monkeypatch, capsys):
    none = torch.zeros(0)
    monkeypatch.setattr(Training, "__call__", lambda *_, **__: [Trained(None, "the loss is nan", none, none)])
    with pytest.raises(InputError, match="alexnet32 cannot be trained on the clean pictures \\(the loss is nan\\)"):
        run_audit(replace(small, seed=99))


def test_a_kept_network_that_was_changed_is_refused(small, tmp_path):
    changed = replace(small, cache=tmp_path / "cache")
    run_audit(changed)
    for path in (changed.cache / "networks").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"networks/.* does not hold the network that it is named for; delete it"):
        run_audit(changed)


# --- the lines, and the page


def test_the_lines_say_what_the_watermark_alone_does_and_how_well_the_clean_network_fits(small):
    summary = run_audit(small)
    said = {line.split()[0]: line for line in report(small, summary)}
    clean = summary["clean_network"]
    assert f"training loss {clean['training_loss']:.4f}, test accuracy" in said["clean"]
    assert f"{summary['watermark_only_rate']:.1%} fell with it alone, 95 % interval" in said["watermark"]


@pytest.fixture
def page(small) -> str:
    run_audit(small)
    write_report(small.out)
    return (small.out / "report.html").read_text()


def test_the_page_sets_the_three_victims_side_by_side_and_says_how_well_the_clean_network_fits(small, page):
    loss = json.loads((small.out / "plan.json").read_bytes())["clean_network"]["training_loss"]
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "How much of it is the collision&#39;s?" in page
    for arm in ("clean control: nothing added", "watermarked bases alone", "poisons"):
        assert arm in page
    assert f"training loss, after training {loss:.4f}" in text
    assert "The control is asked about all targets drawn, the others are counted over those that it gets right" in text
    assert "from a clean network" in text
    assert "frozen and the last layer trained from scratch" not in text
    assert text.count("This run is of this kind.") == 1
    assert "--context end-to-end" in page
    assert "--eps" not in re.search(r'class="command".*?</pre>', page, re.DOTALL)[0]  # it follows from the context


def test_the_page_draws_the_clean_network_s_space_beside_the_victim_s(small, page):
    assert "Trained on none of it: the clean network" in page
    assert "Trained on the poisons: the victim" in page
    panel = next(iter(space.panels(open_audit(small.out, json.loads((small.out / "plan.json").read_bytes())))))
    clean, victim = ([row[0] for row in one.table.rows] for one in (panel.before, panel.after))
    assert clean == ["base"] * 3 + ["poison"] * 3 + ["target"]
    assert victim == ["poison"] * 3 + ["target"]
    sides = [one.table.rows[-1][3] for one in (panel.before, panel.after)]
    row = rows_of(small)[panel.outcome.trial_id]
    classes = load(small.data).classes
    assert sides[1] == classes[int(np.argmax(row["probabilities"]))]  # two classes: the side is the answer


# --- what must not succeed


def test_feature_collision_does_nothing_to_a_resnet_that_starts_from_nothing(tmp_path, cache):
    """The field's benchmark (Schwarzschild et al. 2021) has 0 % here: a "success" would be a fault of ours."""
    with np.load(bundled_cut(tmp_path)) as held:
        assert len(held["x_train"]) == 160
    summary = run_audit(
        Audit(
            data=tmp_path / "cut.npz", context="scratch", model="cifar_resnet20", out=tmp_path / "run", cache=cache,
            threads=1, targets=4, poisons=2, watermark=0.0, eps=8 / 255, passes=15, clean_epochs=7, epochs=5,
        )
    )  # fmt: skip
    assert summary["clean_network"]["test_accuracy"] > 0.75
    assert summary["n_eligible"] >= 3
    assert summary["n_success"] == 0
    rows = rows_of(replace(Audit(data=tmp_path), out=tmp_path / "run"))
    before, after = ([d for row in rows for d in row[f"distance_{when}"]] for when in ("before", "after"))
    assert np.median(after) < 0.7 * np.median(
        before
    )  # it is no weak attack: in the network it was made with, it collides


def bundled_cut(folder: Path) -> Path:
    """80 planes and 80 frogs to train on, and all test pictures."""
    data = load("frogs-and-planes")
    rows = [i for label in (0, 1) for i in np.flatnonzero(data.train.labels == label)[:80]]
    arrays = {
        "x_train": np.stack([np.asarray(data.train[int(i)]) for i in rows]),
        "y_train": data.train.labels[rows],
        "x_test": np.stack([np.asarray(image) for image in data.test]),
        "y_test": data.test.labels,
    }
    np.savez(folder / "cut.npz", **arrays)
    return folder / "cut.npz"


def test_the_document_s_table_of_defaults_is_the_code_s():
    text = (Path(__file__).parent.parent / "docs/end-to-end.md").read_text()
    for name in DEFAULTS["scratch"]:
        cells = [held.get(name, "") for held in DEFAULTS.values()]
        shown = [
            "8/255" if cell == 8 / 255 else "none" if name == "eps" else "" if cell is None else str(cell)
            for cell in cells
        ]
        line = f"| `--{name.replace('_', '-')}` | {' | '.join(shown)} |".replace("|  |", "| |")
        assert line in text, line
