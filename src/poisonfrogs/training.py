"""Whole networks, every layer trained: the data set one tensor on the device, augmentation a function, no workers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ASKED = 500  # pictures a forward pass, where nothing is learnt


class Classifier(nn.Module):
    """A body and a linear layer on its features: normalised pictures (n, 3, H, W) -> logits (n, classes)."""

    def __init__(self, body: nn.Module, dim: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.linear = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.body(x))
        return logits


@dataclass(frozen=True, eq=False)
class Pixels:
    """Labelled pictures as a network sees them, but for the normalisation: one tensor, on the device."""

    pictures: Tensor  # uint8 (n, 3, H, W), channels last
    labels: Tensor  # int64 (n,)
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def seen(self, pictures: Tensor) -> Tensor:
        """uint8 -> normalised float32, as torchvision's ToTensor and Normalize do it."""
        mean, std = (torch.tensor(value, device=pictures.device).view(-1, 1, 1) for value in (self.mean, self.std))
        return pictures.float().div_(255).sub_(mean).div_(std)

    def edited(self, added: Tensor, label: int, removed: tuple[int, ...]) -> Pixels:
        """Without some rows, and with pictures (k, 3, H, W) of one class after the others."""
        kept = torch.ones(len(self), dtype=torch.bool)
        kept[list(removed)] = False
        rows = kept.to(self.labels.device)
        labels = torch.cat([self.labels[rows], self.labels.new_full((len(added),), label)])
        pictures = torch.cat([self.pictures[rows] if removed else self.pictures, added.to(self.pictures)])
        return Pixels(pictures.contiguous(memory_format=torch.channels_last), labels, self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How every layer of a network is trained: Adam on mini-batches of the mean cross-entropy."""

    epochs: int
    learning_rate: float  # the highest of the schedule
    batch_size: int
    schedule: Literal["constant", "one-cycle"]  # Smith and Topin 2018, with torch's defaults
    flips: float = 0.0  # probability that a picture is mirrored, anew in every epoch
    precision: Literal["bf16", "fp32"] = "bf16"  # of convolutions and matrix products; weights are float32

    def __call__(
        self, start: Classifier, data: Pixels, *, seed: int, progress: Callable[[int], None] = lambda epochs: None
    ) -> Trained:
        """Train a copy. The same start, data, seed, machine and number of threads give the same bits."""
        network = copy.deepcopy(start).requires_grad_().train().to(memory_format=torch.channels_last)
        device = data.pictures.device
        optimiser = torch.optim.Adam(network.parameters(), lr=self.learning_rate, fused=device.type in ("cpu", "cuda"))
        steps = self.epochs * math.ceil(len(data) / self.batch_size)
        rates = _rates(self.schedule, optimiser, self.learning_rate, steps)
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)  # of the network's own dropout
            for epoch in range(1, self.epochs + 1):
                loss = self._epoch(network, data, optimiser, rates, generator)
                if not math.isfinite(loss):
                    return Trained(network.eval(), f"the training loss is not a finite number in epoch {epoch}")
                progress(1)
        return Trained(network.eval().requires_grad_(False), None)

    def _epoch(
        self,
        network: Classifier,
        data: Pixels,
        optimiser: torch.optim.Optimizer,
        rates: torch.optim.lr_scheduler.LRScheduler,
        generator: torch.Generator,
    ) -> float:
        """One pass over the data; the sum of the losses of its batches."""
        device = data.pictures.device
        total = torch.zeros((), device=device)
        for batch in torch.randperm(len(data), generator=generator).split(self.batch_size):
            pictures = data.seen(data.pictures[batch.to(device)])
            if self.flips:
                pictures = flipped(pictures, torch.rand(len(batch), generator=generator) < self.flips)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = network(pictures.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), data.labels[batch.to(device)])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            rates.step()
            total += loss.detach()
        return float(total)


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training leaves."""

    network: Classifier
    failure: str | None  # why it is of no use


def flipped(pictures: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen pictures (n,) of a batch (n, 3, H, W)."""
    return torch.where(chosen.to(pictures.device)[:, None, None, None], pictures.flip(3), pictures)


def _rates(
    schedule: str, optimiser: torch.optim.Optimizer, highest: float, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimiser, highest, total_steps=steps)
    return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)


@torch.inference_mode()
def answers(network: Classifier, data: Pixels) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits, labels) in chunks, in full precision."""
    for pictures, labels in zip(data.pictures.split(ASKED), data.labels.split(ASKED), strict=True):
        yield network(data.seen(pictures).contiguous(memory_format=torch.channels_last)), labels


def probabilities(network: Classifier, data: Pixels) -> Tensor:
    """float32 (n, classes), on the CPU."""
    return torch.cat([logits.softmax(1).cpu() for logits, _ in answers(network, data)])


def loss_and_accuracy(network: Classifier, data: Pixels) -> tuple[float, float]:
    """The mean cross-entropy, and the share of right answers."""
    loss, right = 0.0, 0
    for logits, labels in answers(network, data):
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    return loss / len(data), right / len(data)
