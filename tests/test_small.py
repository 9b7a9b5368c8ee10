"""Networks for pictures of 32 × 32: by name, with published weights, and what those weights are known to reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nets import refused
from poisonfrogs import load_data, load_model
from poisonfrogs.small import SMALL
from poisonfrogs.training import Classifier, Pixels, loss_and_accuracy

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_the_published_weights_reach_the_accuracy_that_is_known_of_them(shared):
    """README of the shared data: .9173 for ResNet-20, on all 10,000 test pictures of CIFAR-10."""
    test = load_data(shared / "data/cifar10").test
    pictures = torch.from_numpy(np.stack([np.asarray(image) for image in test])).permute(0, 3, 1, 2)
    data = Pixels(pictures, torch.from_numpy(test.labels), *IMAGENET)
    state = load_file(shared / "weights/cifar10_resnet20.safetensors")
    network = Classifier(SMALL["cifar_resnet20"](), 64, 10).eval()
    network.body.load_state_dict({k: v for k, v in state.items() if not k.startswith("linear.")}, strict=False)
    network.linear.load_state_dict({"weight": state["linear.weight"], "bias": state["linear.bias"]})
    assert round(loss_and_accuracy(network, data)[1], 4) == 0.9173


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_a_file_of_weights_makes_a_frozen_extractor_with_its_own_view(shared, depth):
    net = load_model(f"cifar_resnet{depth}={shared}/weights/cifar10_resnet{depth}.safetensors")
    assert net.dim == 64
    assert (net.view.resize, net.view.crop) == ((32, 32), (32, 32))
    assert (net.view.mean, net.view.std) == IMAGENET
    convolutions = [one for one in net.body.modules() if isinstance(one, torch.nn.Conv2d)]
    assert len(convolutions) == depth - 1  # and the classifier
    assert not [one for one in convolutions if one.kernel_size != (3, 3)]  # shortcuts without parameters


def test_the_alexnet_has_the_paper_s_192_features():
    torch.manual_seed(0)
    network = SMALL["alexnet32"]()
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 192)


def test_without_weights_a_name_is_refused_and_told_what_trains_it():
    refused("alexnet32 has no published weights", "alexnet32=FILE", "--context end-to-end", model="alexnet32")


def test_weights_of_another_depth_are_refused(shared):
    refused("do not fit", model=f"cifar_resnet32={shared}/weights/cifar10_resnet20.safetensors")


def test_near_names_are_ours_too():
    refused("near names: alexnet32", model="alexnet_32")
