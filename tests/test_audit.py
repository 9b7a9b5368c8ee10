"""Whole audits on toy data: what is drawn, what is written, what counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import toy
from poisonfrogs import journal, pictures, plan, targets, trial, write_report
from poisonfrogs.attacks.collision import Collision
from poisonfrogs.audit import prepare, run_audit
from poisonfrogs.cli.show import report
from poisonfrogs.judge import Verdict, VictimJudge, accuracy
from poisonfrogs.plan import Audit
from poisonfrogs.types import Crafted, InputError
from runs import rows_of

pytestmark = pytest.mark.usefixtures("one_thread")

# --- what is drawn


def test_the_plan_says_what_will_be_done(audit: Audit) -> None:
    run_audit(audit)
    plan = json.loads((audit.out / "plan.json").read_text())
    assert plan["audit"]["eps"] == 8 / 255
    expected = {"resize": 32, "crop": [32, 32], "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.25] * 3}
    assert expected.items() <= plan["model"]["view"].items()
    assert plan["data"]["n_train"] == 24
    turns = [(one["target_class"], one["base_class"]) for one in plan["trials"]]
    assert turns == [(0, 1), (1, 0)] * 3
    assert len({one["target_id"] for one in plan["trials"]}) == 6
    for one in plan["trials"]:
        assert one["target_id"].startswith("val/")
        assert all(base.startswith("train/" + ["blue", "red"][one["base_class"]]) for base in one["base_ids"])


def test_the_nearest_base_is_nearest(audit: Audit) -> None:
    from poisonfrogs import extract_features, load_data, load_model

    run_audit(audit)
    net, data = load_model("toy:factory"), load_data(audit.data)
    train, test = (extract_features(net, images, cache=audit.cache).matrix for images in (data.train, data.test))
    for row in rows_of(audit):
        of_class = [i for i, name in enumerate(data.train.ids) if row["base_class"] in name]
        distances = (train[of_class] - test[data.test.ids.index(row["target_id"])]).norm(dim=1)
        assert row["base_ids"] == [data.train.ids[of_class[int(distances.argmin())]]]
        assert row["distance_before"][0] == pytest.approx(float(distances.min()), abs=1e-4)


def test_the_farthest_base_is_farthest(audit: Audit) -> None:
    found = {}
    for choice, poisons in (("nearest", 12), ("farthest", 5)):  # 12: all of the class
        mine = replace(audit, base_choice=choice, poisons=poisons, targets=2, passes=1, out=audit.out / choice)
        run_audit(mine)
        found[choice] = [row["distance_before"] for row in rows_of(mine)]
    assert all(one == sorted(one) for one in found["nearest"])
    assert found["farthest"] == [one[::-1][:5] for one in found["nearest"]]


@pytest.mark.parametrize(("expected", "cycle"), [(None, 30), ("jpeg:75-95", 20), ("crop", 20)])
def test_the_step_falls_once_where_each_pass_draws_a_change(audit: Audit, expected: str | None, cycle: int) -> None:
    mine = replace(audit, robust=expected, passes=20)
    prepared = prepare(mine, 1, lambda stage, done, of: None)
    assert prepared.setting.attack == Collision(passes=20, cycle=cycle)


def test_random_bases_follow_the_seed(audit: Audit) -> None:
    bases = []
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        mine = replace(audit, base_choice="random", seed=seed, out=audit.out / name)
        run_audit(mine)
        bases.append([row["base_ids"] for row in rows_of(mine)])
    assert bases[0] == bases[1] != bases[2]


def test_every_target_has_random_bases_of_its_own(audit: Audit) -> None:
    run_audit(replace(audit, base_choice="random", passes=1))
    assert len({(row["base_class"], *row["base_ids"]) for row in rows_of(audit)}) > 2


def test_one_base_for_all_poisons_makes_copies(audit: Audit) -> None:
    mine = replace(audit, base_choice="one", poisons=20, watermark=0.3, targets=2)  # more than a class has pictures
    run_audit(mine)
    for row in rows_of(mine):
        assert len(row["base_ids"]) == 20
        assert len(set(row["base_ids"])) == 1
        assert len({(mine.out / file).read_bytes() for file in row["poison_files"]}) == 1
    with pytest.raises(InputError, match="--replace takes out a base for each poison"):
        run_audit(replace(mine, replace=True))


def test_many_watermarked_poisons_that_replace_their_bases(audit: Audit, data: Path) -> None:
    mine = replace(audit, poisons=3, watermark=0.3, replace=True, targets=2)
    run_audit(mine)
    for row in rows_of(mine):
        assert len(set(row["base_ids"])) == len(row["poison_files"]) == 3
        target = Image.open(data / row["target_id"])
        for base, file, linf in zip(row["base_ids"], row["poison_files"], row["linf"], strict=True):
            blended = np.asarray(Image.blend(Image.open(data / base), target, 0.3), dtype=int)
            stored = np.asarray(Image.open(mine.out / file), dtype=int)
            assert np.abs(stored - blended).max() == round(linf * 255) <= 8
        assert max(row["linf_from_base"]) > 8 / 255


@pytest.mark.parametrize("store", ["png", "jpeg:30"])
def test_the_watermark_alone_is_judged_beside_its_poisons_and_stored_as_they_are(
    audit: Audit, data: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def victim(images, labels, *, seed):
        seen.append([np.asarray(image, dtype=int) for image in images][24:])
        return toy.victim(images, labels, seed=seed)

    monkeypatch.setattr(toy, "seeing", victim, raising=False)
    mine = replace(audit, victim="toy:seeing", head="paper", watermark=0.4, poisons=2, targets=1, store=store)
    found = run_audit(mine)
    (row,) = rows_of(audit)
    target = Image.open(data / row["target_id"])
    blended = [np.asarray(Image.blend(Image.open(data / base), target, 0.4)) for base in row["base_ids"]]
    stored, bases, marked = seen
    assert np.array_equal(marked, [pictures.decode(pictures.encode(pixels, store)).image for pixels in blended])
    assert not np.array_equal(stored, marked)
    assert not np.array_equal(bases, marked)
    assert row["watermark_only_success"] in (True, False)
    assert found["watermark_only_rate"] == float(row["watermark_only_success"])
    run_audit(replace(audit, out=audit.out / "plain", targets=1))
    (plain,) = rows_of(replace(audit, out=audit.out / "plain"))
    assert plain["watermark_only_success"] is plain["watermark_only_probabilities"] is None


def test_replacing_takes_the_base_away(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def victim(images, labels, *, seed):
        seen.append((len(images), len(labels)))
        return toy.victim(images, labels, seed=seed)

    monkeypatch.setattr(toy, "counting", victim, raising=False)
    for replacing, size in ((False, 25), (True, 24)):
        seen.clear()
        run_audit(
            replace(audit, victim="toy:counting", head="paper", replace=replacing, targets=1, out=audit.out / str(size))
        )
        assert seen == [(size, size)] * 2


@pytest.mark.parametrize(("victim", "told"), [(None, True), ("toy:victim", False)])
def test_how_long_it_takes_is_not_promised_of_another_s_training(audit: Audit, victim: str | None, told: bool) -> None:
    stages: set[str] = set()
    run_audit(replace(audit, victim=victim, head="paper", targets=1), progress=lambda stage, *_: stages.add(stage))
    assert any("at most about" in stage for stage in stages) == told


@pytest.mark.parametrize("absolute", [False, True])
def test_a_target_by_name(audit: Audit, data: Path, absolute: bool) -> None:
    name = "val/red/00.png"
    run_audit(replace(audit, target=(str(data / name) if absolute else name,)))
    (row,) = rows_of(audit)
    assert (row["target_id"], row["target_class"], row["base_class"]) == (name, "red", "blue")


def test_a_training_picture_is_none_however_it_is_written(
    audit: Audit, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    for name in (f"{data.name}/train/red/00.png", f"./{data.name}/val/../train/red/00.png", "train/red/00.png"):
        with pytest.raises(InputError, match="is a training picture"):
            run_audit(replace(audit, data=data.absolute(), target=(name,), target_class="red"))


def test_what_the_clean_classifier_never_gets_right_cannot_be_its_least_confident() -> None:
    with pytest.raises(InputError, match="gets no test picture of the classes asked for right"):
        targets.draw("all", np.array([0, 0, 1]), range(3), [(0, 1)], 0, np.array([[0.1, 0.9]] * 3))


def test_copies_are_drawn_once_and_the_rest_as_without_them() -> None:
    labels, turns = np.repeat([0, 1], 12), [(0, 1), (1, 0)]
    contents = [f"{label} {number % 4}" for number, label in enumerate(labels)]  # four pictures a class, thrice each
    drawn, whole = (targets.draw("all", labels, held, turns, 3) for held in (contents, range(24)))
    for _, base in turns:
        first: dict[str, int] = {}
        for row, _ in (one for one in whole if one[1] == base):
            first.setdefault(contents[row], row)
        assert [row for row, other in drawn if other == base] == list(first.values())
    assert [base for _, base in drawn] == [1, 0] * 4
    assert targets.draw(3, labels, contents, turns, 3) == drawn[:3]
    with pytest.raises(InputError, match=r"--targets 9 is more than the 8 test pictures .*copies of a picture are one"):
        targets.draw(9, labels, contents, turns, 3)


def test_without_pictures_that_are_not_trained_on_the_classifier_is_not_blamed() -> None:
    with pytest.raises(InputError, match="every test picture of the classes asked for is also a training picture"):
        targets.draw(1, np.array([-1, -1, 1]), range(3), [(0, 1)], 0)


def test_a_file_is_one_target_however_often_it_is_named(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toy.picture(toy.CLASSES["red"], 999).save("mine.png")
    toy.picture(toy.CLASSES["red"], 998).save("other.png")
    named = ("mine.png", "./mine.png", "other.png", str(tmp_path / "mine.png"))
    run_audit(replace(audit, target=named, target_class="red"))
    assert [row["target_id"] for row in rows_of(audit)] == ["mine.png", "other.png"]


@pytest.mark.parametrize(
    "said",
    [torch.ones(2, 2, requires_grad=True), ["red", "blue"], [[1.0], [1.0, 2.0]], object()],
    ids=["gradient", "names", "ragged", "nothing"],
)
def test_what_is_no_array_of_numbers_is_no_prediction(said: object) -> None:
    scene = SimpleNamespace(targets=[0, 1], classes=("blue", "red"))
    with pytest.raises(InputError, match=r"predict that mine:victim returned gave what is no array of numbers"):
        VictimJudge(lambda *_, **__: None, "mine:victim")._probabilities(said, scene)


@pytest.mark.parametrize("said", [[0, 2], [0, -1], [0.5, 1]], ids=["beyond", "below", "between"])
def test_what_is_no_number_of_a_class_is_no_prediction(said: object) -> None:
    scene = SimpleNamespace(targets=[0, 1], classes=("blue", "red"))
    judge = VictimJudge(lambda *_, **__: None, "mine:victim")
    with pytest.raises(InputError, match=r"predict that mine:victim returned gave \(2,\); expected"):
        judge._probabilities(said, scene)
    assert judge._probabilities([0, 1], scene).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    "said",
    [[[3.0, -2.0]] * 2, [[0.5, 0.6]] * 2, [[0.5, 0.55]] * 2, [[1.0, 1.0]] * 2],
    ids=["logits", "1.1", "1.05", "two"],
)
def test_what_does_not_add_up_to_one_is_no_probability(said: object) -> None:
    scene = SimpleNamespace(targets=[0, 1], classes=("blue", "red"))
    judge = VictimJudge(lambda *_, **__: None, "mine:victim")
    with pytest.raises(InputError, match=r"rows do not add up to 1; expected probabilities, as a softmax makes them"):
        judge._probabilities(said, scene)
    half = torch.tensor([[0.3331, 0.6669]] * 2).half()
    assert judge._probabilities(half, scene).shape == (2, 2)


def test_text_will_do_for_paths_and_an_unknown_context_is_named(audit: Audit) -> None:
    text = replace(audit, data=str(audit.data), out=str(audit.out), cache=str(audit.cache))
    assert text == audit
    with pytest.raises(InputError, match="--context 'both' is unknown; expected one of transfer, end-to-end, scratch"):
        run_audit(Audit(data=audit.data, context="both"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"base_choice": "Nearest"},
            "--base-choice 'Nearest' is unknown; expected one of nearest, random, farthest, one",
        ),
        ({"target_choice": "Random"}, "--target-choice 'Random' is unknown; expected one of random, least-confident"),
        ({"precision": "fp16"}, "--precision 'fp16' is unknown; expected one of bf16, fp32"),
        ({"view": "crop"}, "--view 'crop' is unknown; expected one of model, squash"),
        ({"targets": 2.5}, "--targets 2.5 is of another type; expected int"),
        ({"targets": "2"}, "--targets '2' is of another type; expected int"),
        ({"poisons": 1.5}, "--poisons 1.5 is of another type; expected int"),
        ({"passes": True}, "--passes True is of another type; expected int"),
        ({"eps": "8/255"}, "--eps '8/255' is of another type; expected float"),
        ({"replace": 1}, "--replace 1 is of another type; expected bool"),
        ({"model": None}, "--model None is of another type; expected str"),
    ],
)
def test_what_the_command_line_would_refuse_is_refused_from_python(audit: Audit, given: dict, said: str) -> None:
    with pytest.raises(InputError) as refused:
        run_audit(replace(audit, **given))
    assert str(refused.value).startswith(said)
    assert not audit.out.exists()


def test_numbers_of_numpy_and_paths_are_as_good_as_plain_ones(audit: Audit, data: Path) -> None:
    plain = replace(audit, targets=2, eps=0.5, seed=3, target=("val/red/00.png",))
    given = {"targets": np.int64(2), "eps": np.float32(0.5), "seed": np.uint8(3), "model": Path("toy:factory")}
    for target in ("val/red/00.png", Path("val/red/00.png"), [Path("val/red/00.png")]):
        assert replace(audit, target=target, **given) == plain
    assert json.loads(json.dumps(plan.identity(replace(plain, **given)))) == plan.identity(plain)


def test_a_target_from_outside(audit: Audit, tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    toy.picture(toy.CLASSES["red"], 999).save(path)
    summary = run_audit(replace(audit, target=(str(path),), target_class="red"))
    (row,) = rows_of(audit)
    assert (row["target_id"], row["base_class"]) == (str(path), "blue")
    assert row["control_accuracy"] == summary["clean_accuracy"]
    with pytest.raises(InputError, match="say what it shows with --target-class"):
        run_audit(replace(audit, target=(str(path),), out=tmp_path / "other"))


# --- what counts


def outcome(control: int, poisoned: int, failure: str | None = None, **beside: int) -> journal.Row:
    """What is made of what each victim says of a target of class 0 that is to be taken for class 1, of three."""
    asked = SimpleNamespace(target_class=0, base_class=1)
    poisons = [SimpleNamespace(failure=why, passes=passes) for why, passes in ((failure, 9), (None, 3))]
    said = {"control": control, "poisoned": poisoned, **beside}
    return trial._outcome(asked, poisons, {arm: Verdict(np.eye(3)[code], 0.9, None) for arm, code in said.items()})


def test_only_what_was_right_before_and_is_the_base_s_class_now_has_fallen() -> None:
    for control in range(3):
        for now in range(3):
            row = outcome(control, now, watermark_only=now, as_jpeg=now)
            fell = control == 0 and now == 1
            assert (row["eligible"], row["control_wrong"], row["failed"]) == (control == 0, control != 0, False)
            for key in ("success", "watermark_only_success", "as_jpeg_success"):
                assert row[key] is fell
            failed = outcome(control, now, "no luck", watermark_only=now, as_jpeg=now)
            assert (failed["failed"], failed["failure"], failed["passes"]) == (True, "no luck", 9)
            assert failed["success"] is failed["as_jpeg_success"] is False


def test_accuracy_leaves_the_target_out() -> None:
    right = np.array([True, True, False])
    assert (accuracy(right, 2), accuracy(right, 0), accuracy(right, 3)) == (1.0, 0.5, 2 / 3)


def test_without_a_budget_the_poison_is_its_control(audit: Audit) -> None:
    summary = run_audit(replace(audit, eps=0.0))
    assert summary["n_success"] == 0
    assert "zero_gradients" not in [check["name"] for check in summary["checks"]]
    for row in rows_of(audit):
        assert row["probabilities"] == row["control_probabilities"]
        assert row["linf"] == [0.0]
        assert row["rotation_degrees"] == pytest.approx(0, abs=1e-3)


def test_the_stored_picture_is_judged(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that swaps every poison for a picture of the target makes the targets fall; the floats did not."""
    run_audit(replace(audit, eps=0.0, target=("val/red/00.png",)))
    (honest,) = rows_of(audit)
    target = (audit.data / "val/red/00.png").read_bytes()
    write = journal.write_bytes
    monkeypatch.setattr(trial, "write_bytes", lambda path, content: write(path, target))
    swapped = replace(audit, eps=0.0, target=("val/red/00.png",), out=audit.out / "swapped", head="logistic:1e4")
    run_audit(swapped)
    (row,) = rows_of(swapped)
    assert honest["distance_after"] == honest["distance_before"]
    assert row["distance_after"] == [0.0]
    assert row["probabilities"][0] > honest["probabilities"][0] + 0.3
    assert row["control_probabilities"][0] < 0.3
    assert row["linf"][0] > 0


def test_a_lossy_store_is_measured_and_said(audit: Audit) -> None:
    summary = run_audit(replace(audit, store="jpeg:30"))
    assert "beyond_budget" in [check["name"] for check in summary["checks"]]
    row = rows_of(audit)[0]
    content = (audit.out / row["poison_files"][0]).read_bytes()
    assert content[:2] == b"\xff\xd8"
    assert pictures.MARK.encode() in content
    base = np.asarray(Image.open(audit.data / row["base_ids"][0]), dtype=int)
    stored = np.asarray(pictures.decode(content).image, dtype=int)
    assert row["linf"][0] == pytest.approx(np.abs(stored - base).max() / 255, abs=1e-6)
    assert row["linf"][0] > 8 / 255


def test_how_far_a_poison_went_is_what_the_files_say(audit: Audit) -> None:
    mine = replace(audit, targets=1, poisons=2, watermark=0.3)
    run_audit(mine)
    (row,) = rows_of(mine)
    target = Image.open(audit.data / row["target_id"])
    for i, (base, file) in enumerate(zip(row["base_ids"], row["poison_files"], strict=True)):
        picture = Image.open(audit.data / base)
        start = np.asarray(Image.blend(picture, target, 0.3), dtype=float)
        stored = np.asarray(Image.open(mine.out / file))
        assert row["crafted_linf"][i] == row["linf"][i] == pytest.approx(np.abs(stored - start).max() / 255, abs=1e-6)
        assert row["l2"][i] == pytest.approx(np.linalg.norm(stored - start) / 255, abs=1e-6)
        assert row["ssim"][i] == trial.ssim(stored, np.asarray(picture)) < 1


def test_a_failed_trial_counts_against_the_rate(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = Collision.__call__

    def fails_once(self, net, bases, goals, **rest):
        made = attack(self, net, bases, goals, **rest)
        return replace(made, failures=["no luck", *made.failures[1:]])

    monkeypatch.setattr(Collision, "__call__", fails_once)
    summary = run_audit(audit)
    first, *others = rows_of(audit)
    assert (first["failed"], first["success"], first["failure"]) == (True, False, "no luck")
    assert not any(row["failed"] for row in others)
    assert summary["n_failed_trials"] == 1
    assert summary["n_trials"] == 6
    assert summary["success_rate"] == pytest.approx(
        summary["n_success"] / sum(row["eligible"] for row in [first, *others])
    )
    assert "failed_trials" in [check["name"] for check in summary["checks"]]


def test_a_group_that_runs_out_of_memory_is_a_group_of_failed_trials(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(self, net, bases, goals, **rest) -> Crafted:
        raise RuntimeError("not enough memory: you tried to allocate 9 GB")

    monkeypatch.setattr(Collision, "__call__", exhausted)
    summary = run_audit(audit)
    assert (summary["n_failed_trials"], summary["n_success"], summary["success_rate"]) == (6, 0, 0.0)
    assert all("not enough memory" in row["failure"] for row in rows_of(audit))


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (lambda made: replace(made, pictures=made.pictures[1:]), "5 pictures, 6 passes and 6 failures for 6 bases"),
        (
            lambda made: replace(made, pictures=[picture / 255 for picture in made.pictures]),
            r"a picture of torch.float32 \(3, 32, 32\) for a base of torch.uint8",
        ),
        (
            lambda made: replace(made, pictures=[picture[:, 1:] for picture in made.pictures]),
            r".* \(3, 31, 32\) for a base",
        ),
    ],
)
def test_an_attack_that_leaves_no_pictures_of_its_bases_is_refused(
    audit: Audit, monkeypatch: pytest.MonkeyPatch, left, said: str
) -> None:
    attack = Collision.__call__
    monkeypatch.setattr(Collision, "__call__", lambda *given, **more: left(attack(*given, **more)))
    with pytest.raises(InputError, match=f"the attack left {said}"):
        run_audit(audit)
    assert rows_of(audit) == []


def test_what_an_attack_does_to_its_bases_is_a_change(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    def inverted(self, net, bases, goals, **rest) -> Crafted:
        pictures = [base.bitwise_not_() for base in bases]
        return Crafted(pictures=pictures, passes=[1] * len(bases), failures=[None] * len(bases))

    monkeypatch.setattr(Collision, "__call__", inverted)
    run_audit(audit)
    assert all(row["linf"] == row["linf_from_base"] and row["linf"][0] > 0.5 for row in rows_of(audit))


def test_gradients_that_the_program_has_turned_off_are_on_inside(audit: Audit) -> None:
    run_audit(audit)
    for number, off in enumerate((torch.no_grad, torch.inference_mode)):
        mine = replace(audit, out=audit.out / str(number))
        with off():
            run_audit(mine)
            assert not torch.is_grad_enabled()
        assert rows_of(mine) == rows_of(audit)


def test_a_victim_that_turns_gradients_off_or_draws_on_its_pictures_changes_nothing_else(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly = toy.victim

    def careless(images, labels, *, seed):
        predict = plainly(images, labels, seed=seed)
        torch.set_grad_enabled(False)
        for picture in images:
            picture.thumbnail((16, 16))
        return predict

    mine = replace(audit, victim="toy:victim", head="paper", targets=18)  # two groups
    run_audit(mine)
    monkeypatch.setattr(toy, "victim", careless)
    again = replace(mine, out=audit.out / "again")
    run_audit(again)
    assert torch.is_grad_enabled()
    assert rows_of(again) == rows_of(mine)


def test_ineligible_targets_are_drawn_but_not_in_the_rate(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    def contrary(images, labels, *, seed):
        return lambda pictures: 1 - toy.victim(images, labels, seed=seed)(pictures)

    monkeypatch.setattr(toy, "contrary", contrary, raising=False)
    summary = run_audit(replace(audit, victim="toy:contrary", head="paper"))
    assert (summary["n_trials"], summary["n_eligible"], summary["success_rate"]) == (6, 0, None)
    assert summary["control_rate"] == 1.0
    assert summary["ci95"] == [0.0, 1.0]
    assert {"ineligible_targets", "collapsed_accuracy"} <= {check["name"] for check in summary["checks"]}


def test_a_victim_of_the_user_s_own_is_the_one_that_is_asked(audit: Audit) -> None:
    """Nearest mean colour, written as user code: its class numbers are what the journal holds."""
    run_audit(replace(audit, victim="toy:victim", head="paper", targets=2))
    from poisonfrogs import load_data

    data = load_data(audit.data)
    for row in rows_of(audit):
        images = [*data.train, Image.open(audit.out / row["poison_files"][0]).convert("RGB")]
        labels = np.append(data.train.labels, data.classes.index(row["base_class"]))
        said = toy.victim(images, labels, seed=0)([data.test[data.test.ids.index(row["target_id"])]])
        assert row["probabilities"] == np.eye(2)[said[0]].tolist()
        assert row["rotation_degrees"] is None


def test_the_judge_s_own_recipe_written_as_user_code_gives_the_same_numbers(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same head trained alone on all rows at once, through --victim; its features computed by hand."""
    from poisonfrogs import PaperHead, load_model
    from poisonfrogs.logistic import Rows

    net = load_model("toy:factory")

    def by_hand(pictures):
        x = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 for picture in pictures])
        with torch.no_grad():
            return net.body((x - 0.5) / 0.25)

    def victim(images, labels, *, seed):
        x, y = by_hand(images), torch.from_numpy(labels)
        rows = Rows(x[:-1], y[:-1], x[None, -1:], y[None, -1:], torch.empty(1, 0, dtype=torch.int64))
        head = PaperHead()(rows, 2, seed=seed)
        return lambda pictures: head.predict(by_hand(pictures))[0].numpy()

    monkeypatch.setattr(toy, "same", victim, raising=False)
    ours, theirs = (
        replace(audit, head="paper"),
        replace(audit, head="paper", victim="toy:same", out=audit.out / "theirs"),
    )
    run_audit(ours)
    run_audit(theirs)
    for mine, other in zip(rows_of(ours), rows_of(theirs), strict=True):
        for key in ("probabilities", "control_probabilities"):
            assert mine[key] == pytest.approx(other[key], abs=2e-4)
        for key in ("eligible", "success", "accuracy", "control_accuracy", "base_ids", "passes", "linf"):
            assert mine[key] == other[key]


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (lambda pictures: np.zeros(3), r"gave \(3,\); expected"),
        (lambda pictures: np.full((len(pictures), 2), np.nan), "expected finite probabilities"),
        (lambda pictures: 1 / 0, "toy:odd raised ZeroDivisionError"),
    ],
)
def test_what_a_victim_returns_is_checked(audit: Audit, monkeypatch: pytest.MonkeyPatch, returned, what: str) -> None:
    monkeypatch.setattr(toy, "odd", lambda images, labels, *, seed: returned, raising=False)
    with pytest.raises(InputError, match=what):
        run_audit(replace(audit, victim="toy:odd", head="paper"))


def test_the_surrogate_shares_no_seed_with_the_judge(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    from poisonfrogs.train import PaperHead

    seeds: dict[int, set[int]] = {}
    call = PaperHead.__call__

    def noted(self, rows, classes, *, seed):
        seeds.setdefault(self.epochs, set()).add(seed)
        return call(self, rows, classes, seed=seed)

    monkeypatch.setattr(PaperHead, "__call__", noted)
    run_audit(replace(audit, head="paper", eps=1.0, passes=21, targets=4))
    assert len(seeds) == 2  # the short training of the surrogate, the long one of the judge
    assert not set.intersection(*seeds.values())


def test_ssim_is_one_for_the_same_picture_and_less_for_another() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    assert trial.ssim(a, a) == 1.0
    assert trial.ssim(a, b) < 0.5
    assert trial.ssim(a[:2], a[:2]) is None
    assert trial.ssim(a[:4], a[:4]) == 1.0


def test_three_classes(tmp_path: Path, audit: Audit) -> None:
    root = toy.write_folder(tmp_path / "three", train=8, test=4)
    for split, count in (("train", 8), ("val", 4)):
        folder = root / split / "green"
        folder.mkdir()
        for number in range(count):
            toy.picture((80, 170, 80), 500 + number + 50 * (split == "val")).save(folder / f"{number}.png")
    summary = run_audit(replace(audit, data=root, targets=6, eps=64 / 255, passes=20, overshoot=2.0))
    rows = rows_of(audit)
    assert {(row["target_class"], row["base_class"]) for row in rows} == {
        (a, b) for a in ("blue", "green", "red") for b in ("blue", "green", "red") if a != b
    }
    assert all(len(row["probabilities"]) == 3 for row in rows)
    assert all(abs(sum(row["probabilities"]) - 1) < 1e-4 for row in rows)
    assert summary["n_trials"] == 6


def test_numpy_and_torch_take_every_seed() -> None:
    from poisonfrogs.plan import seed_of

    for i in range(50):
        np.random.default_rng(seed_of(i))
        np.random.seed(seed_of(i))  # what users' training code calls
        torch.manual_seed(seed_of(i))


@pytest.mark.parametrize("poisons", [1, 3])
def test_poisons_are_asked_about_as_jpegs_where_any_base_is_one(audit: Audit, poisons: int, tmp_path: Path) -> None:
    mixed = toy.write_folder(tmp_path / "mixed")
    for path in sorted((mixed / "train").rglob("*.png"))[::2]:
        with Image.open(path) as picture:
            picture.save(path.with_suffix(".jpg"), quality=90)
        path.unlink()
    mine = replace(audit, data=mixed, poisons=poisons, base_choice="random", targets="all")
    summary = run_audit(mine)
    rows = rows_of(mine)
    encoded = [any(name.endswith(".jpg") for name in row["base_ids"]) for row in rows]
    assert any(encoded)
    assert [row["as_jpeg_success"] is not None for row in rows] == encoded
    asked = [row["as_jpeg_success"] for row in rows if row["eligible"] and row["as_jpeg_success"] is not None]
    assert (summary["n_as_jpeg"], summary["n_as_jpeg_success"]) == (len(asked), sum(asked))
    assert [row["as_jpeg_linf"] is not None for row in rows] == encoded
    for row in rows:
        for base, poison, far in zip(row["base_ids"], row["poison_files"], row["as_jpeg_linf"] or (), strict=False):
            files = mixed / base, (mine.out / poison).with_suffix(".jpg")
            if base.endswith(".png"):
                assert far is None
                continue
            held, crafted = (np.asarray(Image.open(file).convert("RGB")).astype(int) for file in files)
            assert far == round(np.abs(crafted - held).max() / 255, 6) > 0
    (line,) = [line for line in report(mine, summary) if line.startswith("as JPEG")]
    assert f"{sum(asked)} of {len(asked)} fell to the poisons stored as their bases are" in line


def test_a_watermark_is_a_part_of_how_far_a_poison_is_from_its_base(audit: Audit) -> None:
    mine = replace(audit, watermark=0.3)
    summary = run_audit(mine)
    moved = [[linf for row in rows_of(mine) for linf in row[key]] for key in ("linf", "linf_from_base")]
    assert (summary["median_linf"], summary["median_linf_from_base"]) == tuple(round(median(some), 6) for some in moved)
    assert summary["median_linf_from_base"] > summary["median_linf"]
    (line,) = [line for line in report(mine, summary) if line.startswith("perturbation")]
    assert f"{255 * summary['median_linf_from_base']:.1f}/255 from the base without its watermark" in line
    assert "from bases with 30.0 % of the target blended in" in write_report(mine.out).path.read_text()
