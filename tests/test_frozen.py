"""Networks made fast to differentiate: the same features, and the gradients that autograd gives."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from poisonfrogs.frozen import FastGradients, folded

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(body: nn.Module) -> nn.Module:
    """Batch norms as a training leaves them, none of them the identity."""
    generator = torch.Generator().manual_seed(0)
    for norm in body.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.copy_(torch.randn(norm.num_features, generator=generator) / 5)
            norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
            if norm.affine:
                norm.weight.data.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
                norm.bias.data.copy_(torch.randn(norm.num_features, generator=generator) / 5)
    return body.eval().requires_grad_(False)


def norms(body: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in body.modules())


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv2_050", "tf_efficientnet_lite0", "regnetx_002"])
def test_no_batch_norm_is_left_and_the_features_are_the_same(name):
    body = trained(timm.create_model(name, num_classes=0))
    before, x = copy.deepcopy(body.state_dict()), torch.rand(3, 3, 64, 64)
    found = folded(body, torch.rand(2, 3, 64, 64))
    assert norms(body) > norms(found) == 0
    assert torch.allclose(found(x), body(x), rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in body.state_dict().items())


class Twice(nn.Module):
    """Its convolution is asked for by the batch norm and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return (x + self.norm(x)).mean((2, 3))


class First(nn.Module):
    """Its batch norm comes first, and another is of the batch's own statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
        self.after, self.own = nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.own(self.after(self.conv(self.norm(x)))).mean((2, 3))


@pytest.mark.parametrize("kind", [Twice, First])
def test_what_cannot_be_folded_stays(kind):
    body, probe = kind().eval(), torch.rand(2, 3, 8, 8)
    for norm in (body.norm, getattr(body, "after", body.norm)):
        norm.running_var.mul_(3)
    found = folded(body, probe)
    assert norms(found) == norms(body)
    assert torch.equal(found(probe), body(probe))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(5, 9), st.integers(5, 9),
    st.booleans(),
)  # fmt: skip
def test_the_gradient_is_autograd_s(kernel, down, across, padding, height, width, bias):
    padding = min(padding, kernel - 1)
    conv = nn.Conv2d(3, 3, kernel, (down, across), padding, groups=3, bias=bias).double().requires_grad_(False)
    x = torch.rand(2, 3, height, width, dtype=torch.float64)
    gradients = []
    for mode in (False, True):
        y = x.clone().requires_grad_()
        out = within(conv, y) if mode else conv(y)
        assert torch.equal(out, conv(x))
        (gradient,) = torch.autograd.grad((out * torch.arange(out.numel()).view_as(out)).sum(), y)
        gradients.append(gradient)
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-12)


def within(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with FastGradients():
        out: torch.Tensor = conv(x)
    assert (type(out.grad_fn).__name__ == "_DepthwiseBackward") == (conv.stride != (1, 1))
    return out


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, 2, groups=2), nn.Conv2d(4, 8, 3, 2, groups=4), nn.Conv2d(4, 4, 3, 2),
        nn.Conv2d(4, 4, 3, 2, dilation=2, groups=4),
    ],
)  # fmt: skip
def test_other_convolutions_keep_their_gradient(conv):
    x = torch.rand(1, 4, 9, 9, requires_grad=True)
    with FastGradients():
        assert type(conv.requires_grad_(False)(x).grad_fn).__name__ == "ConvolutionBackward0"
        assert (
            type(F.conv2d(x, torch.rand(4, 1, 3, 3), padding="same", groups=4).grad_fn).__name__[:11] == "Convolution"
        )


def test_weights_that_learn_keep_their_gradient():
    conv = nn.Conv2d(4, 4, 3, 2, groups=4)
    with FastGradients():
        conv(torch.rand(1, 4, 9, 9)).sum().backward()
    assert conv.weight.grad is not None


def test_half_precision_gives_the_library_s_gradient():
    body, x = trained(timm.create_model("tf_efficientnet_lite0", num_classes=0)), torch.rand(1, 3, 64, 64)
    found = []
    for mode in (torch.enable_grad(), FastGradients()):
        y = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16), mode:
            features = body(y.contiguous(memory_format=torch.channels_last))
        found.append(torch.autograd.grad(features.float().square().sum(), y)[0])
    assert (found[0] - found[1]).norm() < 0.05 * found[0].norm()
