"""Features of whole sets: the same bits in any company, computed once, kept through kills and accidents."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import toy
from poisonfrogs import data, load_model
from poisonfrogs.features import features
from poisonfrogs.types import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


class Counting(toy.Toy):
    """Counts the pictures that it is shown, the padding of a batch and the noise shown twice left out."""

    seen = 0

    def forward(self, x):
        if not torch.equal(x[0], x[1]):
            Counting.seen += int((x.flatten(1).abs().sum(1) > 0).sum())
        return super().forward(x)


@pytest.fixture
def counting(monkeypatch):
    net = load_model(f"{__name__}:Counting")
    monkeypatch.setattr(Counting, "seen", 0)
    return net


@pytest.fixture
def images(toy_folder):
    return data.load(toy_folder).train


def of_files(paths):
    return data.files([str(path) for path in paths], [0] * len(paths))


# --- the same bits


@pytest.mark.parametrize("model", ["toy:factory", "tf_efficientnet_lite0"])
def test_no_feature_depends_on_its_company(toy_folder, tmp_path, model):
    """Alone, in any batch, in any order, through the cache or not: the last bit."""
    net = load_model(model, size=64 if model != "toy:factory" else None)
    images = data.load(toy_folder).train.select(range(19))  # a whole batch and a part of one
    whole = features(net, images, cache=tmp_path / "whole").matrix
    assert whole.shape == (19, net.dim)
    assert torch.equal(whole, features(net, images, cache=tmp_path / "whole").matrix)
    order = np.random.default_rng(0).permutation(19)
    assert torch.equal(features(net, images.select(order), cache=tmp_path / "order").matrix, whole[order])
    for row in (0, 7, 18):
        assert torch.equal(net.features([images[row]])[0], whole[row])
        assert torch.equal(features(net, images.select([row]), cache=tmp_path / "alone").matrix[0], whole[row])
    assert whole.std(0).mean() > 0


def test_features_are_those_of_the_network(images, tmp_path):
    net = load_model("toy:factory")
    found = features(net, images, cache=str(tmp_path))
    with torch.inference_mode():
        expected = toy.factory()(torch.stack([net.transform(images[i]) for i in range(len(images))]))
    assert torch.allclose(found.matrix, expected, rtol=1e-5)
    assert found.matrix.dtype == torch.float32
    assert (found.unreadable, found.conversions) == ({}, {})


# --- computed once


def test_a_second_call_computes_nothing(images, tmp_path, counting):
    features(counting, images, cache=tmp_path)
    assert Counting.seen == 24
    progress = []
    features(counting, images, cache=tmp_path, progress=progress.append)
    assert Counting.seen == 24
    assert progress == [24]


def test_only_new_pictures_are_computed(images, tmp_path, counting):
    features(counting, images.select(range(10)), cache=tmp_path)
    progress = []
    features(counting, images, cache=tmp_path, progress=progress.append)
    assert Counting.seen == 24
    assert progress == [10, 14]


def test_a_copy_under_another_name_costs_nothing(toy_folder, tmp_path, counting):
    for path in sorted((toy_folder / "train/red").iterdir())[:5]:
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    images = data.load(toy_folder).train
    progress = []
    found = features(counting, images, cache=tmp_path / "cache", progress=progress.append)
    assert (len(images), Counting.seen, sum(progress)) == (29, 24, 29)
    for i, name in enumerate(images.ids):
        if "copy of " in name:
            assert torch.equal(found.matrix[i], found.matrix[images.ids.index(name.replace("copy of ", ""))])


def test_a_changed_picture_under_its_old_name_is_computed(toy_folder, tmp_path, counting):
    features(counting, data.load(toy_folder).train, cache=tmp_path / "cache")
    toy.picture((1, 2, 3), 999).save(toy_folder / "train/red/00.png")
    features(counting, data.load(toy_folder).train, cache=tmp_path / "cache")
    assert Counting.seen == 25


CHANGES = {
    "weights": lambda net: replace(net, weights="0" * 64),
    "name": lambda net: replace(net, name="another"),
    "view": lambda net: replace(net, view=replace(net.view, mean=(0.5, 0.5, 0.51))),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_cache_is_of_one_network_and_one_view(images, tmp_path, counting, what):
    features(counting, images, cache=tmp_path)
    other = CHANGES[what](counting)
    features(other, images, cache=tmp_path)
    assert Counting.seen == 48
    for net in (counting, other):
        features(net, images, cache=tmp_path)
    assert Counting.seen == 48


def test_a_cache_is_of_one_code(images, tmp_path, monkeypatch):
    """A user who edits `forward` and leaves the weights alone gets the new features."""
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for factor in ("1.0", "-2.5"):
        code = f"import toy\nclass Own(toy.Toy):\n    def forward(self, x):\n        return super().forward(x) * {factor}\n"
        (tmp_path / "code_of_a_user.py").write_text(code)
        sys.modules.pop("code_of_a_user", None)
        found.append(features(load_model("code_of_a_user:Own"), images, cache=tmp_path / "cache").matrix)
    assert torch.equal(found[1], found[0] * -2.5)


# --- pictures that are no good


def mixed(folder):
    """Six pictures: two good, one of them palette; broken; a strip too long for the view; empty of content; CMYK."""
    folder.mkdir()
    toy.picture((9, 90, 200), 1).save(folder / "good.png")
    toy.picture((9, 90, 200), 2).quantize(8).save(folder / "palette.png")
    toy.picture((9, 90, 200), 3).convert("CMYK").save(folder / "cmyk.jpg")
    whole = (folder / "good.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (100_000, 1)).save(folder / "strip.png")
    (folder / "text.jpg").write_text("no picture")
    return of_files(
        [folder / name for name in ("broken.png", "good.png", "text.jpg", "palette.png", "strip.png", "cmyk.jpg")]
    )


def test_unreadable_pictures_are_remembered_with_their_reasons(tmp_path, counting):
    images = mixed(tmp_path / "mixed")
    first = features(counting, images, cache=tmp_path / "cache")
    assert list(first.unreadable) == [0, 2, 4]
    assert "truncated" in first.unreadable[0]
    assert "not a picture" in first.unreadable[2]
    assert "100000×1 pixels: too long and thin for the view" in first.unreadable[4]
    assert first.matrix.shape == (3, 16)
    for row, i in enumerate((1, 3, 5)):
        assert torch.equal(first.matrix[row], counting.features([images[i]])[0])
    seen = Counting.seen
    second = features(counting, images, cache=tmp_path / "cache")
    assert Counting.seen == seen
    assert second.unreadable == first.unreadable
    assert torch.equal(second.matrix, first.matrix)


def test_conversions_are_counted_from_the_cache_as_well(tmp_path, counting):
    images = mixed(tmp_path / "mixed")
    twice = images.select([*range(6), 3])  # a palette picture that stands in the set twice
    expected = Counter({"palette converted to RGB": 2, "CMYK converted to RGB": 1})
    assert features(counting, twice, cache=tmp_path / "cache").conversions == expected
    assert features(counting, twice, cache=tmp_path / "cache").conversions == expected
    assert features(counting, images, cache=tmp_path / "cache").conversions == Counter(dict.fromkeys(expected, 1))


def test_a_set_with_nothing_readable_and_an_empty_one(tmp_path, counting):
    images = mixed(tmp_path / "mixed")
    found = features(counting, images.select([0, 2]), cache=tmp_path / "cache")
    assert (found.matrix.shape, len(found.unreadable)) == ((0, 16), 2)
    assert features(counting, images.select([]), cache=tmp_path / "cache").matrix.shape == (0, 16)


def test_a_large_set_is_looked_up_in_parts(toy_folder, tmp_path, counting):
    """Rows stay in their places over the bounds of the parts, unreadable ones between them."""
    images = data.load(toy_folder).train
    broken = mixed(tmp_path / "mixed").select([0])
    both = data.joined(images, broken)
    order = np.random.default_rng(1).integers(0, 25, 1700)
    found = features(counting, both.select(order), cache=tmp_path / "cache")
    single = features(counting, images, cache=tmp_path / "cache").matrix
    assert torch.equal(found.matrix, single[[i for i in order if i < 24]])
    assert list(found.unreadable) == [row for row, i in enumerate(order) if i == 24]
    assert Counting.seen == 24


def test_features_that_are_not_finite_are_refused(images, tmp_path):
    with pytest.raises(
        InputError, match=r"toy:Unfinite returned features that are not finite numbers for 'train/blue/"
    ):
        features(load_model("toy:Unfinite"), images, cache=tmp_path)


# --- kills and accidents


def test_finished_batches_outlive_an_accident(images, tmp_path, counting):
    alone = features(counting, images, cache=tmp_path / "alone").matrix
    Counting.seen = 0

    def stumble(done):
        if Counting.seen == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features(counting, images, cache=tmp_path / "cache", progress=stumble)
    resumed = features(counting, images, cache=tmp_path / "cache")
    assert Counting.seen == 24
    assert torch.equal(resumed.matrix, alone)


SCRIPT = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from poisonfrogs import data, load_model
from poisonfrogs.features import features
folder, cache, wait = sys.argv[1:]
net, images = load_model("toy:factory"), data.load(folder).train
print("ready", flush=True)
sys.stdin.readline()
def progress(done):
    print(done, flush=True)
    if done == 16:
        time.sleep(float(wait))
print(features(net, images, cache=Path(cache), progress=progress).matrix.double().sum().item(), flush=True)
"""


def started(folder, cache, wait=0):
    """A process that computes features when a line is written to it, and waits after the first batch."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(cache), str(wait)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, cwd=Path(__file__).parent)


def test_a_process_is_killed_and_two_go_on_at_once(tmp_path):
    folder, cache = toy.write_folder(tmp_path / "toy", train=40, test=1), tmp_path / "cache"
    processes = [started(folder, cache, wait=600), started(folder, cache), started(folder, cache)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    killed, *both = processes
    killed.stdin.write("go\n")
    killed.stdin.flush()
    assert [killed.stdout.readline() for _ in range(2)] == ["0\n", "16\n"]
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    alone = features(load_model("toy:factory"), data.load(folder).train, cache=tmp_path / "apart").matrix
    for out, _ in said:
        known, *_, total = out.split()
        assert int(known) >= 16  # nothing of what the first had finished is done again
        assert float(total) == alone.double().sum().item()


def file_of(cache):
    (path,) = (cache / "features").glob("*.sqlite")
    return path


def garbage(cache):
    file_of(cache).write_bytes(os.urandom(5000))


def truncated(cache):
    path = file_of(cache)
    path.write_bytes(path.read_bytes()[:5000])


def overwritten(cache):
    """The header whole, the pages nonsense."""
    path = file_of(cache)
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def of_another_length(cache):
    with sqlite3.connect(file_of(cache)) as store:
        store.execute("UPDATE picture SET vector = x'00000000'")
    store.close()


def another_table(cache):
    with sqlite3.connect(file_of(cache)) as store:
        store.execute("DROP TABLE picture")
        store.execute("CREATE TABLE picture (something)")
    store.close()


def a_folder_in_its_place(cache):
    path = file_of(cache)
    path.unlink()
    path.mkdir()


def a_file_in_the_folders_place(cache):
    shutil.rmtree(cache / "features")
    (cache / "features").write_text("x")


ACCIDENTS = [
    *(garbage, truncated, overwritten, of_another_length, another_table),
    *(a_folder_in_its_place, a_file_in_the_folders_place),
]


def refused(net, images, cache):
    with pytest.raises(
        InputError, match=r"the cache .* cannot be used \(.*\); choose another --cache, or delete it"
    ) as caught:
        features(net, images, cache=cache)
    assert "\n" not in str(caught.value)
    assert str(cache) in str(caught.value)


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_a_cache_that_cannot_be_used_is_said(images, tmp_path, accident):
    net = load_model("toy:factory")
    features(net, images, cache=tmp_path)
    accident(tmp_path)
    refused(net, images, tmp_path)


def test_a_cache_where_nothing_can_be_written_is_said(images):
    if not Path("/proc/self").exists():
        pytest.skip("a folder that root cannot write to either: only on Linux")
    refused(load_model("toy:factory"), images, Path("/proc/poisonfrogs"))


def test_a_full_disk_is_said_and_what_was_finished_stays(tmp_path, counting, monkeypatch):
    """SQLite's own limit on pages stands for the disk."""
    module = sys.modules[features.__module__]
    connected = module._connected

    def small(path):
        store = connected(path)
        store.execute("PRAGMA max_page_count = 5")
        return store

    images = data.load(toy.write_folder(tmp_path / "toy", train=40, test=1)).train
    monkeypatch.setattr(module, "_connected", small)
    refused(counting, images, tmp_path / "cache")
    failed = Counting.seen
    assert 16 < failed < 80
    monkeypatch.setattr(module, "_connected", connected)
    features(counting, images, cache=tmp_path / "cache")
    assert Counting.seen == 80 + 16  # only the batch that could not be written is computed again
