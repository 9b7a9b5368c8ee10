"""Networks by name: where weights come from, what the features are, and what is said when they cannot be had."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

import toy
from nets import PICTURES, close, refused, stored
from poisonfrogs import Audit, run_audit
from poisonfrogs.models import load
from poisonfrogs.types import InputError
from runs import rows_of

pytestmark = pytest.mark.usefixtures("one_thread")


# --- timm


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_timm_name_with_a_file(tmp_path, pairs, suffix):
    theirs = timm.create_model("resnet18", num_classes=3).eval()
    file = stored(tmp_path / f"w{suffix}", theirs)
    net = load(f"resnet18={file}")
    seen = torch.stack([net.transform(picture) for picture in PICTURES])
    with torch.inference_mode():
        expected = theirs.forward_head(theirs.forward_features(seen), pre_logits=True)
    assert close(net.features(PICTURES), expected)
    assert (net.name, net.dim, net.source) == ("resnet18", 512, f"file {file.name}")
    apart = load("resnet18", weights=str(file))
    assert (apart.weights, apart.source) == (net.weights, net.source)


def test_a_network_is_frozen(tmp_path):
    net = load("tf_efficientnet_lite0")
    assert not net.body.training
    assert not any(parameter.requires_grad for parameter in net.body.parameters())


def test_weights_are_named_once(tmp_path):
    refused("weights are named twice", "a.pth", "b.pth", "name one", model="resnet18=a.pth", weights="b.pth")


def test_a_tag_names_its_own_view(tmp_path, pairs):
    file = stored(tmp_path / "w.pth", timm.create_model("resnet18"))
    views = [load(f"resnet18.{tag}={file}").view for tag in ("tv_in1k", "a1_in1k")]
    assert [view.interpolation for view in views] == ["bilinear", "bicubic"]
    refused("resnet18.nothing cannot be built", "check the name", model=f"resnet18.nothing={file}")


def test_published_names_of_another_implementation_are_translated_as_timm_does(tmp_path, pairs):
    """Facebook's ConvNeXt files, as its users have them."""
    theirs = timm.create_model("convnext_atto")
    renamed = {}
    for key, value in theirs.state_dict().items():
        for pattern, name in [
            (r"^stem\.", "downsample_layers.0."),
            (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
            (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
            (r"\.conv_dw\.", ".dwconv."),
            (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
            (r"^head\.norm\.", "norm."),
            (r"^head\.fc\.", "head."),
        ]:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    torch.save({"model": renamed}, tmp_path / "facebook.pth")
    plain = load(f"convnext_atto={stored(tmp_path / 'timm.pth', theirs)}")
    assert load(f"convnext_atto={tmp_path / 'facebook.pth'}").weights == plain.weights
    refused("do not fit the model", model=f"convnext_atto={stored(tmp_path / 'w.pth', nn.Linear(2, 2))}")


def test_shared_mobilenet(shared):
    net = load(f"mobilenetv2_100={shared / 'weights/mobilenetv2_100.safetensors'}")
    assert (net.dim, net.view.crop) == (1280, (224, 224))
    pairs = net.features([*PICTURES, PICTURES[0]])
    assert torch.equal(pairs[0], pairs[2])
    assert not torch.allclose(pairs[0], pairs[1], rtol=0.1)


@pytest.mark.parametrize("model", ["resnet18", "hf-hub:timm/resnet18.a1_in1k", "inception_v3", "tf_efficientnet_lite3"])
def test_weights_that_cannot_be_fetched_say_what_to_do(model):
    """Offline, as every test is."""
    refused(
        f"the pretrained weights of {model} could not be fetched",
        f"connect to the network once, or give --model {model}=FILE.safetensors",
        model=model,
    )


def test_an_architecture_without_published_weights_says_so():
    refused(
        "the pretrained weights of resnetv2_50t could not be fetched", "No pretrained weights", model="resnetv2_50t"
    )


@pytest.mark.parametrize("size", [96, 1000])
def test_a_size_that_a_network_cannot_take(tmp_path, size):
    model = f"vit_tiny_patch16_224={stored(tmp_path / 'w.pth', timm.create_model('vit_tiny_patch16_224'))}"
    refused(f"does not accept pictures of ({size}, {size})", "224", "try another --size", model=model, size=size)
    assert load(model).dim == 192


def test_size_and_squash(tmp_path, pairs):
    model = f"resnet18={stored(tmp_path / 'w.pth', timm.create_model('resnet18'))}"
    smaller = load(model, size=112).view
    assert (smaller.resize, smaller.crop) == (117, (112, 112))  # 112 / 0.95, the name's own crop
    for size, side in ((None, 224), (64, 64)):
        squashed = load(model, view="squash", size=size)
        assert (squashed.view.resize, squashed.view.crop) == ((side, side), None)
        assert squashed.view.mean == smaller.mean
        assert squashed.features(PICTURES).shape == (2, 512)
    refused("--view 'whole' is unknown; expected model or squash", model=model, view="whole")


# --- the paper's network


def test_inception_v3_end_to_end(tmp_path, pairs):
    """299 pixels, 2,048 features, with random weights: an audit from pictures to its summary."""
    torch.manual_seed(0)
    file = stored(tmp_path / "inception.safetensors", timm.create_model("inception_v3.tf_in1k"))
    audit = Audit(
        data=toy.write_folder(tmp_path / "toy", train=3, test=1),
        model=f"inception_v3.tf_in1k={file}",
        out=tmp_path / "run",
        cache=tmp_path / "cache",
        targets=1,
        passes=2,
        head="logistic:1",
        precision="fp32",
        threads=1,
    )
    summary = run_audit(audit)
    model = json.loads((audit.out / "plan.json").read_text())["model"]
    assert (model["dim"], model["view"]["resize"], model["view"]["crop"]) == (2048, 341, [299, 299])
    assert (summary["n_trials"], summary["n_failed_trials"]) == (1, 0)
    (line,) = (audit.out / "journal.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["distance_after"][0] < row["distance_before"][0]


# --- the user's own


class Headless(nn.Linear):
    data_config = toy.Toy.data_config

    def __init__(self):
        super().__init__(3 * 32 * 32, 5)

    def forward(self, x):
        return super().forward(x.flatten(1))


class Grey(toy.Toy):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, self.first.out_channels, 3)


def test_a_network_of_grey_pictures_is_told_what_pictures_are():
    refused("does not accept pictures of (32, 32) in 3 channels", "a network of colour pictures", model=f"{HERE}:Grey")


class Maps(toy.Toy):
    def forward(self, x):
        return self.first(x)


class OneRow(toy.Toy):
    def forward(self, x):
        return super().forward(x)[:1]


class Pair(toy.Toy):
    def forward(self, x):
        return super().forward(x), None


class Beyond(toy.Toy):
    def forward(self, x):
        return [super().forward(x)][1]


class Surplus(toy.Toy):
    def forward(self, x):
        return super().forward(x, 1)


class Lazy(toy.Toy):
    def __init__(self):
        super().__init__()
        self.last = nn.LazyLinear(8)

    def forward(self, x):
        return self.last(super().forward(x))


class Plain(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)


class Bent(toy.Toy):
    data_config = toy.Toy.data_config | {"interpolation": "cubic"}


class Flat(toy.Toy):
    data_config = toy.Toy.data_config | {"std": (0, 0, 0)}


class Lanczos(toy.Toy):
    data_config = toy.Toy.data_config | {"interpolation": "lanczos", "input_size": (3, 40, 32)}


class Statistics(toy.Toy):
    """The statistics of its batch norm are those of the pictures that are asked together."""

    def __init__(self):
        super().__init__()
        self.second = nn.Sequential(nn.BatchNorm2d(8, track_running_stats=False), self.second)


class Largest(toy.Toy):
    """What stands beside a picture tells only if it is brighter."""

    def forward(self, x):
        return super().forward(x) / x.amax()


class Chance(toy.Toy):
    """A dropout that takes the same features of all pictures asked together."""

    def forward(self, x):
        return super().forward(x) * (torch.rand(16) < 0.5)


class Double(toy.Toy):
    def __init__(self):
        super().__init__()
        self.double()


class Whole(toy.Toy):
    def forward(self, x):
        return super().forward(x).long()


class Complex(toy.Toy):
    def forward(self, x):
        return super().forward(x) * 1j


class Sparse(toy.Toy):
    def forward(self, x):
        return super().forward(x).to_sparse()


def no_module():
    return SimpleNamespace()


def no_file():
    raise FileNotFoundError(2, "No such\nfile", "weights.bin")


HERE = __name__
OWN_MISTAKES = {
    f"{HERE}:Maps": ("returned (2, 8, 14, 14) for 2 pictures", "expected features of shape (2, d)"),
    f"{HERE}:OneRow": ("returned (1, 16) for 2 pictures",),
    f"{HERE}:Pair": ("returned tuple for 2 pictures",),
    f"{HERE}:Lazy": ("whose shape is not known before it has seen a picture (last.weight)", "give its layers their"),
    f"{HERE}:Plain": ("has no attribute data_config", "expected a dict with input_size, mean, std"),
    f"{HERE}:Bent": ("does not describe a view", "expected such as input_size (3, 224, 224)"),
    f"{HERE}:Flat": (f"of {HERE}:Flat does not describe a view (ValueError: std evaluated to zero",),
    f"{HERE}:Lanczos": ("no differentiable twin", "try --view squash"),
    f"{HERE}:Beyond": (f"{HERE}:Beyond raised IndexError: list index out of range ({__file__}, line", "; mend it"),
    f"{HERE}:Surplus": (f"{HERE}:Surplus raised TypeError: ", f"positional arguments but 3 were given ({__file__}"),
    f"{HERE}:no_file": (f"{HERE}:no_file raised FileNotFoundError: ", f"weights.bin' ({__file__}, line", "; mend it"),
    f"{HERE}:Statistics": ("gives one picture features that differ by ", "beside other pictures; expected the same"),
    f"{HERE}:Largest": ("gives one picture features that differ by ", "expected the same features: without dropout,"),
    f"{HERE}:Chance": ("gives one picture features that differ by ", "when it is asked again", "dynamic quantisation"),
    f"{HERE}:Double": ("does not accept pictures of (32, 32)", "(double)", "colour pictures with weights in float32"),
    f"{HERE}:Whole": ("returned features in torch.int64, torch.strided; expected real numbers",),
    f"{HERE}:Complex": ("returned features in torch.complex64", "such as float32"),
    f"{HERE}:Sparse": ("returned features in torch.float32, torch.sparse_coo; expected real numbers, not sparse",),
    f"{HERE}:no_module": ("returned a SimpleNamespace; expected a torch.nn.Module that returns features",),
    f"{HERE}:HERE": ("is a str; expected a function or class",),
    f"{HERE}:nothing": ("cannot be imported (the module", "has no 'nothing'); expected module:function"),
    "nowhere.at.all:factory": ("cannot be imported", "No module named 'nowhere'"),
    ":factory": ("cannot be imported",),
    f"{HERE}:": ("cannot be imported",),
}


@pytest.mark.parametrize("model", OWN_MISTAKES)
def test_mistakes_in_a_users_network_are_said_in_one_line(model):
    refused(*OWN_MISTAKES[model], model=model)


class Few(toy.Toy):
    def forward(self, x):
        if len(x) > 4:
            raise ValueError("the batch is too large")
        return super().forward(x)


class Unlearning(toy.Toy):
    def forward(self, x):
        if x.requires_grad:
            raise ValueError("no gradients here")
        return super().forward(x)


def test_what_a_users_network_raises_later_is_said_in_one_line():
    net = load(f"{HERE}:Few")
    with pytest.raises(InputError, match=rf"{HERE}:Few raised ValueError: the batch is too large \(.* for 16 pictures"):
        net.features(PICTURES)


def test_what_a_users_network_raises_in_crafting_is_a_failed_trial(tmp_path, data, cache):
    audit = Audit(data=data, model=f"{HERE}:Unlearning", out=tmp_path / "run", cache=cache, targets=2, threads=1)
    assert run_audit(audit)["n_failed_trials"] == 2
    for row in rows_of(audit):
        assert "raised ValueError: no gradients here" in row["failure"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\ndef network(:\n", "SyntaxError: invalid syntax ({file}, line 2)"),
        ("\n\n{}['x']\n", "KeyError: 'x' ({file}, line 3)"),
    ],
)
def test_a_module_that_cannot_be_run_is_said_with_its_line(tmp_path, monkeypatch, code, said):
    file = tmp_path / "broken_of_the_user.py"
    file.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    refused(
        f"broken_of_the_user:network cannot be imported: it raised {said.format(file=file)}; expected module:function",
        model="broken_of_the_user:network",
    )


def test_squash_asks_nothing_of_the_model_s_own_view_but_its_size_and_colours():
    net = load(f"{HERE}:Lanczos", view="squash")
    assert (net.view.resize, net.view.interpolation) == ((40, 40), "bicubic")
    assert (net.view.mean, net.view.std) == (toy.Toy.data_config["mean"], toy.Toy.data_config["std"])


@pytest.mark.parametrize(("name", "size"), [("googlenet", 32), ("torchvision/inception_v3", 75)])
def test_without_what_only_training_uses_a_network_returns_features_in_training_too(name, size):
    net = load(name, untrained=True, size=size)
    assert net.body.train()(torch.rand(2, 3, size, size)).shape == (2, net.dim)


def test_a_users_network():
    net = load("toy:factory")
    assert (net.name, net.dim, net.source) == ("toy:factory", 16, "toy:factory itself")
    seen = torch.stack([net.transform(picture) for picture in PICTURES])
    with torch.inference_mode():
        assert close(net.features(PICTURES), toy.factory()(seen))
    assert load("toy:factory", size=40).view.crop == (40, 40)


def scripted():
    body = torch.jit.script(toy.factory())
    body.data_config = toy.Toy.data_config
    return body


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_a_users_scripted_network_is_frozen_and_crafted_through():
    net, plain = load(f"{HERE}:scripted"), load("toy:factory")
    assert net.weights == plain.weights
    assert not any(parameter.requires_grad for parameter in net.body.parameters())
    assert close(net.features(PICTURES), plain.features(PICTURES))
    start = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradients = [torch.autograd.grad(one.extractor("bf16")([start]).sum(), start)[0] for one in (net, plain)]
    assert gradients[1].abs().max() > 0
    assert close(*gradients)


class Scalars(toy.Toy):
    data_config = toy.Toy.data_config | {"mean": 0.5, "std": 0.25}


def test_one_number_stands_for_the_mean_of_all_colours():
    net, plain = load(f"{HERE}:Scalars"), load("toy:factory")
    assert (net.view.mean, net.view.std) == ((0.5,), (0.25,))
    pixels = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(net.view(pixels), plain.view(pixels))
    assert torch.equal(net.features(PICTURES), plain.features(PICTURES))


def test_another_precision_of_torch_is_refused_before_features_are_cached_in_it():
    net = load("toy:factory")
    with torch.autocast("cpu", torch.bfloat16):
        refused("torch.autocast is on for cpu; expected float32: leave autocast before", model="toy:factory")
        with pytest.raises(InputError, match="autocast is on"):
            net.features(PICTURES)
    torch.set_default_dtype(torch.float64)
    try:
        refused("torch's default is torch.float64; expected float32: call torch.set_default", model="toy:factory")
        with pytest.raises(InputError, match=r"default is torch\.float64"):
            net.features(PICTURES)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_users_network_with_a_file(tmp_path, suffix):
    body = toy.factory()
    body.first.weight.data *= -1
    plain = stored(tmp_path / f"plain{suffix}", body)
    body.fc = nn.Linear(16, 7)
    trained = stored(tmp_path / f"trained{suffix}", body)
    assert load(f"toy:factory={plain}").weights == load(f"toy:factory={trained}").weights
    assert load("toy:factory").weights != load(f"toy:factory={plain}").weights
    body.other = nn.Linear(2, 2)
    two = stored(tmp_path / f"two{suffix}", body)
    refused("4 unknown", "give this model's own weights", model=f"toy:factory={two}")
    del body.first
    refused("missing (first.", model="toy:factory", weights=str(stored(tmp_path / f"less{suffix}", body)))


def test_a_users_layer_is_not_a_classifier_by_its_place(tmp_path):
    """A file of another architecture is no fit because it has one layer too many and one too few."""
    body = Headless()
    state = {f"linear.{key}": value for key, value in body.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    refused("2 missing (weight, bias)", model=f"{HERE}:Headless={tmp_path / 'w.pth'}")


def test_the_working_directory_is_importable(tmp_path, monkeypatch):
    (tmp_path / "of_the_user.py").write_text("from toy import Toy\n\ndef network():\n    return Toy()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert load("of_the_user:network").dim == 16


# --- names and devices


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("resnet81", "resnet18"),
        ("efficientnet-lite0", "efficientnet_lite0"),
        ("torchvision/squeezenet", "squeezenet1_"),
        ("inception-v3", "inception_v3"),
        ("qqqqqqqq", "near names: none"),
    ],
)
def test_an_unknown_name_gives_near_ones(model, near):
    refused(
        "no model is called", near, "expected a timm or torchvision name, NAME=FILE, or module:factory", model=model
    )


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "foo", "meta", "", "cpu:x"])
def test_a_device_that_is_not_there(device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    refused(f"--device {device!r}", "expected auto, cpu or cuda", model="toy:factory", device=device)


def test_the_twin_and_the_transform_lead_to_the_same_features():
    net = load("tf_efficientnet_lite0")
    picture = Image.fromarray((torch.rand(60, 60, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy())
    pixels = torchvision.transforms.functional.to_tensor(picture)
    judged, crafted = net.features([picture]), net.extractor("fp32")([pixels])
    assert (judged - crafted).norm() < 0.01 * judged.norm()
    half = net.extractor("bf16")([pixels])
    assert half.dtype == torch.float32
    assert 0 < (half - crafted).norm() < 0.1 * crafted.norm()
