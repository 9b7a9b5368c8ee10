"""torchvision's networks: classifiers found by the library's own rule, files and published weights alike."""

from __future__ import annotations

import re

import pytest
import timm
import torch
import torchvision

from nets import PICTURES, close, refused, stored
from poisonfrogs import zoo
from poisonfrogs.models import load

pytestmark = pytest.mark.usefixtures("one_thread")


# name: its classifier by torchvision's documentation, without the auxiliary ones; the options of a pretrained network
FAMILIES = {
    "resnet18": ("fc", {}),
    "squeezenet1_1": ("classifier.1", {}),
    "mobilenet_v3_small": ("classifier.3", {}),
    "shufflenet_v2_x0_5": ("fc", {}),
    "mnasnet0_5": ("classifier.1", {}),
    "regnet_y_400mf": ("fc", {}),
    "densenet121": ("classifier", {}),
    "efficientnet_b0": ("classifier.1", {}),
    "swin_t": ("head", {}),
    "googlenet": ("fc", {"transform_input": True, "init_weights": False}),
    "inception_v3": ("fc", {"transform_input": True, "init_weights": False}),
}


def randomised(name, **options):
    torch.manual_seed(0)
    body = torchvision.models.get_model(name, weights=None, **options).eval()
    for key, value in body.state_dict().items():
        if key.endswith("running_mean"):  # so that a forgotten statistic shows
            value.normal_(0, 0.1)
    return body


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvision_features_are_what_its_classifier_is_given(tmp_path, pairs, monkeypatch, name):
    """And the same whether the library fetches the weights or a file brings them."""
    layer, options = FAMILIES[name]
    theirs = randomised(name, **options)
    given = []
    theirs.get_submodule(layer).register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    file = stored(tmp_path / "w.pth", theirs)
    net = load(f"torchvision/{name}={file}")
    seen = torch.stack([net.transform(picture) for picture in PICTURES])
    with torch.inference_mode():
        theirs(seen)
    # SqueezeNet's classifier is a 1 × 1 convolution before the pooling
    expected = given[0].mean((2, 3)) if given[0].ndim == 4 else given[0]
    assert close(net.features(PICTURES), expected)
    assert expected.std(0).max() > 0
    monkeypatch.setattr(
        "torchvision.models._api.WeightsEnum.get_state_dict", lambda *args, **options: theirs.state_dict()
    )
    fetched = load(f"torchvision/{name}")
    assert (fetched.weights, fetched.view, fetched.dim) == (net.weights, net.view, net.dim)
    assert torch.equal(fetched.features(PICTURES), net.features(PICTURES))
    assert fetched.source.startswith("torchvision, https://download.pytorch.org/models/")


LARGER = {  # without their weights
    "alexnet": "classifier.6",
    "vgg11_bn": "classifier.6",
    "resnext50_32x4d": "fc",
    "convnext_tiny": "classifier.2",
    "efficientnet_v2_s": "classifier.1",
    "maxvit_t": "classifier.5",
    "swin_v2_t": "head",
    "vit_b_16": "heads.head",
}


@pytest.mark.parametrize("name", LARGER)
def test_the_layers_that_follow_the_number_of_classes_are_the_classifier(name):
    with torch.device("meta"):
        body = torchvision.models.get_model(name, weights=None)
    assert zoo._changed_by_num_classes(name, body, {}) == (LARGER[name],)


def test_a_vision_transformer_takes_the_picture_size_of_its_published_file(tmp_path):
    """384 pixels where the name's default is 224; its position embeddings are no classifier."""
    with torch.device("meta"):
        body = torchvision.models.get_model("vit_b_16", weights=None, image_size=384)
    published = torchvision.models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.url.rpartition("/")[2]
    assert published == "vit_b_16_swag-9ac1b537.pth"
    torch.save(
        {key: torch.zeros(()).expand(value.shape) for key, value in body.state_dict().items()}, tmp_path / published
    )
    net = load(f"torchvision/vit_b_16={tmp_path / published}")
    assert (net.dim, net.view.crop, net.view.interpolation) == (768, (384, 384), "bicubic")


def test_a_file_named_as_published_brings_its_own_view(tmp_path, pairs):
    body = randomised("mobilenet_v2")
    views = [
        load(f"torchvision/mobilenet_v2={stored(tmp_path / name, body)}").view
        for name in ("w.pth", "mobilenet_v2-b0353104.pth")
    ]
    assert [view.resize for view in views] == [232, 256]  # of IMAGENET1K_V2, the default, and of V1


def test_the_published_names_inside_densenet_are_translated(tmp_path):
    body = randomised("densenet121")
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in body.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    new = load(f"torchvision/densenet121={stored(tmp_path / 'new.pth', body)}")
    assert load(f"torchvision/densenet121={tmp_path / 'old.pth'}").weights == new.weights


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_may_be_there_or_not(tmp_path, name):
    state = randomised(name, init_weights=False).state_dict()
    digests = set()
    for left_out in ((), ("AuxLogits.", "aux1.", "aux2."), ("fc.", "AuxLogits.fc.")):
        kept = {key: value for key, value in state.items() if not key.startswith(left_out)}
        torch.save(kept, tmp_path / "w.pth")
        digests.add(load(f"{name}={tmp_path / 'w.pth'}", size=139).weights)
    assert len(digests) == 1


def test_shared_squeezenet_is_torchvisions_alone(shared):
    net = load(f"squeezenet1_1={shared / 'weights/squeezenet1_1.safetensors'}")
    assert (net.name, net.dim, net.view.interpolation, net.view.crop) == ("squeezenet1_1", 512, "bilinear", (224, 224))
    assert net.features(PICTURES).std(0).mean() > 0.01


def test_a_name_that_both_libraries_have_is_timms_without_the_prefix(tmp_path):
    theirs = torchvision.models.get_model("mobilenet_v3_small", weights=None)
    file = stored(tmp_path / "w.pth", theirs)
    assert not timm.is_model("mobilenet_v3_small")
    assert load(f"mobilenet_v3_small={file}").weights == load(f"torchvision/mobilenet_v3_small={file}").weights
    resnet = stored(tmp_path / "r.pth", torchvision.models.get_model("resnet18", weights=None))
    assert timm.is_model("resnet18")
    assert load(f"resnet18={resnet}").view.interpolation == "bicubic"
    assert load(f"torchvision/resnet18={resnet}", size=112).view.resize == 128


def test_torchvision_says_what_to_do_without_its_weights(monkeypatch):
    def offline(*args, **options):
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>\n")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    refused(
        "the pretrained weights of squeezenet1_1 could not be fetched (OSError: <urlopen error",
        "give --model squeezenet1_1=FILE.safetensors",
        model="squeezenet1_1",
    )
    # timm has one of that name, with another view
    refused("give --model torchvision/resnet18=FILE.safetensors", model="torchvision/resnet18")
