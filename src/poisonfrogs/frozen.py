"""A frozen network, made fast to differentiate with respect to its pictures: the same function, other arithmetic."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

AGREE = 1e-3  # of the features' norm: how far folding may move them, in full precision


def folded(body: nn.Module, probe: Tensor) -> nn.Module:
    """A copy in which each batch norm that directly follows a convolution is multiplied into it.

    Which ones do is seen when a `probe` (n, 3, H, W) goes through. The network itself where that changes its features:
    its convolution is used otherwise, too.
    """
    copied = copy.deepcopy(body)
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # what a convolution made, kept so that no other tensor gets its id
    follows: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def after(conv: Any, _: Any, out: Tensor) -> None:
        made[id(out)] = conv, out

    def before(norm: Any, given: tuple[Tensor, ...]) -> None:
        if given and id(given[0]) in made:
            follows[norm], _ = made[id(given[0])]

    convs = [module for module in copied.modules() if isinstance(module, nn.Conv2d) and "weight" in module._parameters]
    norms = [
        module for module in copied.modules() if isinstance(module, nn.BatchNorm2d) and module.running_var is not None
    ]
    hooks = [conv.register_forward_hook(after) for conv in convs]
    hooks += [norm.register_forward_pre_hook(before) for norm in norms]
    with torch.inference_mode():
        copied(probe)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for norm, conv in follows.items():
            _fold(conv, norm)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if child in follows:
                setattr(parent, name, _rest(child))
    copied.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected, found = body(probe), copied(probe)
    return copied if (found - expected).norm() <= AGREE * expected.norm() else body


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.requires_grad_(False)


def _rest(norm: nn.Module) -> nn.Module:
    """What timm's batch norms with an activation do beside normalising."""
    return nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))


class FastGradients(TorchFunctionMode):
    """Inside, strided depthwise convolutions with frozen weights have a gradient of our own.

    For bfloat16 on a CPU: there oneDNN takes thirty times as long for the gradient as for the convolution, and four
    such layers of EfficientNet-Lite0 are half the time of a pass.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in (torch.conv2d, F.conv2d) and not given:
            defaults: list[Any] = [None, 1, 0, 1, 1]
            x, weight, bias, stride, padding, dilation, groups = [*args, *defaults[len(args) - 2 :]]
            depthwise = groups == x.shape[1] == len(weight) and not weight.requires_grad
            if depthwise and _pair(stride) != (1, 1) and _pair(dilation) == (1, 1) and not isinstance(padding, str):
                return _Depthwise.apply(x, weight, bias, _pair(stride), _pair(padding))
        return func(*args, **given)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class _Depthwise(torch.autograd.Function):
    """conv2d(x, weight, bias, stride, padding) with a group a channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.dtype, ctx.stride, ctx.padding = x.shape, x.dtype, stride, padding
        return torch.conv2d(x, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Between the gradient's values zeros, then the mirrored kernel over all."""
        (weight,) = ctx.saved_tensors
        (kh, kw), (sh, sw), (ph, pw) = weight.shape[2:], ctx.stride, ctx.padding
        n, channels, height, width = ctx.shape
        wide = gradient.new_zeros(n, channels, height + kh - 1, width + kw - 1)
        wide = wide.contiguous(memory_format=torch.channels_last)
        top, left = kh - 1 - ph, kw - 1 - pw
        rows, columns = gradient.shape[2:]
        wide[:, :, top : top + (rows - 1) * sh + 1 : sh, left : left + (columns - 1) * sw + 1 : sw] = gradient
        back = torch.conv2d(wide, weight.to(gradient.dtype).flip(2, 3), None, 1, 0, 1, channels)
        return back.to(ctx.dtype), None, None, None, None
