"""A network and a data set small enough for every test: `toy:factory`, and pictures of two coloured classes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

CLASSES = {"blue": (60, 80, 170), "red": (170, 80, 60)}


class Toy(nn.Module):
    """Two convolutions and a mean: 16 features. Weights from a seed of their own, the same everywhere."""

    data_config = {
        "input_size": (3, 32, 32),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride=2)
        self.second = nn.Conv2d(8, 16, 5, stride=2)
        generator = torch.Generator().manual_seed(1)
        for layer in (self.first, self.second):
            fan = layer.weight[0].numel()
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * (2 / fan) ** 0.5
            layer.bias.data = torch.randn(layer.bias.shape, generator=generator) * 0.1

    def forward(self, x: Tensor) -> Tensor:
        return 4 * torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3))


def factory() -> Toy:
    return Toy()


class Unfinite(Toy):
    """A network that is sound in its weights and not in its features."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("nan")


class Gradientless(Toy):
    """A network through which no gradient passes: every attack on it fails."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


not_callable = 3


def victim(images, labels, *, seed):
    """A victim in the sense of --victim: nearest class mean of the mean colour."""

    def colours(pictures):
        return np.stack([np.asarray(picture, dtype=np.float64).mean((0, 1)) for picture in pictures])

    means = np.stack([colours(images)[labels == label].mean(0) for label in range(labels.max() + 1)])

    def predict(pictures):
        return ((colours(pictures)[:, None] - means) ** 2).sum(-1).argmin(1)

    return predict


def contrary(images, labels, *, seed):
    """A victim that is always wrong on two classes."""
    predict = victim(images, labels, seed=seed)
    return lambda pictures: 1 - predict(pictures)


def picture(colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Noise around a colour; (width, height)."""
    noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
    return Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8))


def write_folder(root: Path, *, train: int = 12, test: int = 4, seed: int = 0) -> Path:
    """ROOT/train|val/blue|red/NN.png, every picture another one, numbered from `seed` on."""
    for split, count in (("train", train), ("val", test)):
        for name, colour in CLASSES.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed += 1
                picture(colour, seed).save(root / split / name / f"{number:02d}.png")
    return root


class Mortal(Toy):
    """A network that kills the N-th process that asks it for gradients where the folder TOY_FATE holds `kill-N`.

    Only ever in a worker: the parent's process number is in the file `parent`.
    """

    def forward(self, x: Tensor) -> Tensor:
        fate = Path(os.environ["TOY_FATE"])
        if x.requires_grad and os.getpid() != int((fate / "parent").read_text()):
            met(fate)
        return super().forward(x)


def met(fate: Path) -> None:
    (fate / "seen").mkdir(exist_ok=True)
    (fate / "seen" / str(os.getpid())).touch()
    if (fate / f"kill-{len(list((fate / 'seen').iterdir()))}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
