"""Networks for pictures of 32 × 32: an AlexNet scaled down, and the CIFAR ResNets of He et al. 2016, section 4.2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
CLASSIFIER = ("linear",)  # of the CIFAR ResNets' published weights; what these modules leave to others


def _view(normalised: Mapping[str, tuple[float, ...]]) -> dict[str, Any]:
    return {"input_size": (3, 32, 32), "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "squash", **normalised}


class AlexNet32(nn.Module):
    """Three convolutions (32, 64, 64 channels) and two layers (256, 192): (n, 3, 32, 32) -> features (n, 192).

    Shafahi et al. 2018 attack "a scaled-down AlexNet" end to end and do not say more of it.
    """

    data_config = _view(_CIFAR)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.full1 = nn.Linear(64 * 4 * 4, 256)
        self.full2 = nn.Linear(256, 192)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.conv1, self.conv2, self.conv3):
            x = F.max_pool2d(F.relu(layer(x)), 2)
        x = F.relu(self.full1(x.flatten(1)))
        return F.relu(self.full2(x))


class _Block(nn.Module):
    """Two convolutions beside a shortcut without parameters: every second pixel, channels padded with zeros."""

    def __init__(self, inside: int, channels: int) -> None:
        super().__init__()
        self.stride = 1 if inside == channels else 2
        self.padding = (channels - inside) // 2
        self.conv1 = nn.Conv2d(inside, channels, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride == 2:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """16, 32 and 64 channels, `blocks` blocks each: (n, 3, 32, 32) -> features (n, 64)."""

    data_config = _view(_IMAGENET)

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = ((16, 16), (16, 32), (32, 64))
        stages = [
            nn.Sequential(_Block(inside, width), *(_Block(width, width) for _ in range(blocks - 1)))
            for inside, width in widths
        ]
        self.layer1, self.layer2, self.layer3 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return torch.mean(self.layer3(self.layer2(self.layer1(x))), (2, 3))


SMALL: dict[str, Callable[[], nn.Module]] = {
    "alexnet32": AlexNet32,
    "cifar_resnet20": lambda: CifarResNet(3),
    "cifar_resnet32": lambda: CifarResNet(5),
    "cifar_resnet44": lambda: CifarResNet(7),
    "cifar_resnet56": lambda: CifarResNet(9),
}
