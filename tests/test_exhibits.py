"""What a run leaves for its report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from poisonfrogs import extract_features, load_data, load_model
from poisonfrogs.audit import run_audit
from poisonfrogs.features import code
from poisonfrogs.pictures import EVASION_MARK, MARK
from poisonfrogs.plan import EVADED, Audit
from poisonfrogs.types import InputError
from runs import rows_of

pytestmark = pytest.mark.usefixtures("one_thread")


def mark(path: Path) -> str | None:
    with Image.open(path) as image:
        return image.info.get("poisonfrogs")


def picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(picture(path), dtype=int)


def test_targets_and_bases_are_left_as_shown(audit: Audit, data: Path) -> None:
    run_audit(audit)
    for row in rows_of(audit):
        assert np.array_equal(pixels(audit.out / row["target_file"]), pixels(data / row["target_id"]))
        for file, identity in zip(row["base_files"], row["base_ids"], strict=True):
            assert np.array_equal(pixels(audit.out / file), pixels(data / identity))
    marks = {path.name: mark(path) for path in (audit.out / "pictures").iterdir()}
    assert {said for name, said in marks.items() if "evasion" in name} == {EVASION_MARK}
    assert {said for name, said in marks.items() if "evasion" not in name} == {None}
    assert {mark(path) for path in (audit.out / "poisons").iterdir()} == {MARK}


def test_features_are_those_of_the_pictures(audit: Audit) -> None:
    run_audit(replace(audit, poisons=2, targets=18))
    net, dataset = load_model("toy:factory"), load_data(audit.data)
    train, test = (
        extract_features(net, images, cache=audit.cache).matrix.numpy() for images in (dataset.train, dataset.test)
    )
    clean = load_file(audit.out / "features/clean.safetensors")
    np.testing.assert_allclose(clean["means"], [train[dataset.train.labels == i].mean(0) for i in (0, 1)], rtol=1e-5)
    np.testing.assert_allclose(clean["sample"].astype(np.float32), train, rtol=1e-3)
    assert np.array_equal(clean["labels"], dataset.train.labels)
    rows = rows_of(audit)
    for group, count in ((0, 16), (1, 2)):
        held = load_file(audit.out / f"features/{group:06d}.safetensors")
        mine = [row for row in rows if row["group"] == group]
        assert len(mine) == count == len(held["target"])
        for i, row in enumerate(mine):
            assert np.array_equal(held["target"][i], test[dataset.test.ids.index(row["target_id"])])
            assert np.array_equal(held["base"][i], train[[dataset.train.ids.index(one) for one in row["base_ids"]]])
            stored = net.features([picture(audit.out / file) for file in row["poison_files"]])
            np.testing.assert_allclose(held["poison"][i], stored, atol=1e-5)
            distances = np.linalg.norm(held["poison"][i] - held["target"][i], axis=1)
            np.testing.assert_allclose(distances, row["distance_after"], atol=1e-4)
            base = dataset.classes.index(row["base_class"])
            for kind, said in (("", "probabilities"), ("control_", "control_probabilities")):
                score = held["target"][i] @ held[f"{kind}normal"][i] + held[f"{kind}offset"][i]
                assert 1 / (1 + np.exp(-score)) == pytest.approx(row[said][base], abs=1e-4)
            cosine = held["normal"][i] @ held["control_normal"][i]
            cosine /= np.linalg.norm(held["normal"][i]) * np.linalg.norm(held["control_normal"][i])
            assert np.degrees(np.arccos(min(cosine, 1))) == pytest.approx(row["rotation_degrees"], abs=0.05)


def test_the_first_targets_have_evasion_examples(audit: Audit) -> None:
    run_audit(audit)
    net = load_model("toy:factory")
    held = load_file(audit.out / "features/000000.safetensors")
    for i, row in enumerate(rows_of(audit)):
        assert [made["norm"] for made in row["evasions"]] == (["linf", "l2"] if i < EVADED else [])
        base = ["blue", "red"].index(row["base_class"])
        for made in row["evasions"]:
            change = (pixels(audit.out / made["file"]) - pixels(audit.out / row["target_file"])) / 255
            assert np.abs(change).max() == pytest.approx(made["linf"], abs=1e-6)
            assert np.sqrt((change**2).sum()) == pytest.approx(made["l2"], abs=1e-6)
            assert made["linf"] <= 8 / 255 + 1e-6 or made["norm"] == "l2"
            assert made["l2"] <= 2 / 255 * change.size**0.5 + 1e-6 or made["norm"] == "linf"
            feature = net.features([picture(audit.out / made["file"])]).numpy()[0]
            score = feature @ held["control_normal"][i] + held["control_offset"][i]
            assert made["probabilities"][base] == pytest.approx(1 / (1 + np.exp(-score)), abs=1e-4)
            assert made["probabilities"][base] > row["control_probabilities"][base]


def test_one_s_own_training_code_leaves_no_boundary_and_no_evasions(audit: Audit) -> None:
    run_audit(replace(audit, victim="toy:victim", head="paper"))
    held = load_file(audit.out / "features/000000.safetensors")
    assert held.keys() == {"target", "base", "poison"}
    assert all(row["evasions"] == [] for row in rows_of(audit))


def test_the_auditor_sees_poisons_and_bases(audit: Audit) -> None:
    """The auditor's head is the paper's, trained on the clean set: scikit-learn's converged one agrees on what is clear."""
    from sklearn.linear_model import LogisticRegression

    summary = run_audit(replace(audit, auditor="toy:factory", poisons=2))
    net, dataset = load_model("toy:factory"), load_data(audit.data)
    train = extract_features(net, dataset.train, cache=audit.cache).matrix.numpy()
    judge = LogisticRegression(C=100.0, max_iter=2000).fit(train, dataset.train.labels)
    agreed = total = 0
    for row in rows_of(audit):
        base = ["blue", "red"].index(row["base_class"])
        for kind, files in (("poisons", row["poison_files"]), ("bases", row["base_files"])):
            seen = net.features([picture(audit.out / file) for file in files]).numpy()
            theirs = judge.predict_proba(seen)
            assert len(row["auditor"][kind]) == 2
            for mine, one in zip(row["auditor"][kind], theirs, strict=True):
                assert sum(mine) == pytest.approx(1, abs=1e-5)
                assert one.max() < 0.95 or np.argmax(mine) == np.argmax(one)
        agreed += sum(int(np.argmax(one)) == base for one in row["auditor"]["poisons"])
        total += 2
    assert (summary["auditor"]["n_agreed"], summary["auditor"]["n_poisons"]) == (agreed, total)
    plan = json.loads((audit.out / "plan.json").read_text())
    named = {"name": "toy:factory", "weights": net.weights, "code": code(net), "said": list(net.said)}
    assert plan["auditor"] == named


def test_without_an_auditor_nobody_is_asked(audit: Audit) -> None:
    assert run_audit(audit)["auditor"] is None
    assert all(row["auditor"] is None for row in rows_of(audit))


@pytest.mark.parametrize("name", ["toy:not_callable", "toy:Unfinite", "nonsense_net", "toy:factory=nowhere.pth"])
def test_an_auditor_that_cannot_be_asked_is_refused_before_anything_is_written(audit: Audit, name: str) -> None:
    with pytest.raises(InputError):
        run_audit(replace(audit, auditor=name))
    assert not audit.out.exists()
