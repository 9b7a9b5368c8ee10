"""Whole networks, every layer trained: the data set one tensor on the device, augmentation a function, no workers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisonfrogs.types import InputError
from poisonfrogs.zoo import fault

ASKED = 500 * 32 * 32  # pixels of all pictures of a forward pass, where nothing is learnt
TOGETHER = 32 * 32 * 32  # pixels of one picture for each network that a GPU trains at once
WARM_UP = 3  # steps before a CUDA graph is made of one: libraries choose and prepare in the first
# what torch and its libraries say in a plain RuntimeError where memory cannot be had
_NO_MEMORY = ("allocate memory", "not enough memory", "out of memory", "could not create a primitive")


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
        mean, std = self._columns
        return pictures.float().div_(255).sub_(mean).div_(std)

    @cached_property
    def _columns(self) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(value, device=self.pictures.device).view(-1, 1, 1) for value in (self.mean, self.std))
        return mean, std

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
    schedule: Literal["constant", "one-cycle"]  # Smith and Topin 2018, of the rate alone, as torch has it
    precision: Literal["bf16", "fp32"] = "bf16"  # of convolutions and matrix products; weights are float32

    def __call__(
        self,
        start: Classifier,
        sets: Sequence[Pixels],
        *,
        seed: int,
        progress: Callable[[int], None] = lambda epochs: None,
    ) -> list[Trained]:
        """Train a copy on each set: on a GPU side by side, else one after the other.

        On a CPU the same start, set, seed, machine and number of threads give the same bits.
        Raises InputError where the network raises in training, and where there is no memory for it.
        """
        trained: list[Trained] = []
        together = _together(sets)
        for first in range(0, len(sets), together):
            some = sets[first : first + together]
            device = some[0].pictures.device
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(seed)  # of the networks' own dropout
                with faults_told():
                    running = [_Running(self, start, data, seed) for data in some]
                for epoch in range(1, self.epochs + 1):
                    learning = [one for one in running if one.failure is None]
                    with faults_told():
                        for _ in zip_longest(*(one.steps() for one in learning)):
                            pass
                        for one in learning:
                            one.close(epoch)
                    progress(1)
            trained += [one.trained() for one in running]
        return trained

    def rates(self, pictures: int) -> list[float]:
        """The learning rate of each step."""
        steps = self.epochs * len(batches(pictures, self.batch_size))
        if self.schedule == "constant":
            return [self.learning_rate] * steps
        optimiser = torch.optim.SGD([torch.zeros(1)], lr=self.learning_rate)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.learning_rate, total_steps=steps, cycle_momentum=False
        )
        found = []
        for _ in range(steps):
            found.append(float(optimiser.param_groups[0]["lr"]))
            optimiser.step()
            cycle.step()
        return found


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training leaves."""

    network: Classifier
    failure: str | None  # why it is of no use
    boundaries: Tensor  # (epochs, classes, d): the last layer's weights after each epoch, on the CPU
    turned: Tensor  # (epochs, layers): degrees between the weights of each of `layers` and those it started from


class _Running:
    """A network in training. On a GPU it has a stream of its own, and its steps are replayed from a CUDA graph: those
    of a small network are over before Python has launched all their parts one by one.
    """

    def __init__(self, recipe: Training, start: Classifier, data: Pixels, seed: int) -> None:
        device = data.pictures.device
        gpu = device.type == "cuda"
        self.recipe, self.start, self.data = recipe, start, data
        self.network = copy.deepcopy(start).requires_grad_().train().to(memory_format=torch.channels_last)
        self.rate = torch.tensor(recipe.learning_rate, device=device)
        self.optimiser = torch.optim.Adam(
            self.network.parameters(), lr=self.rate, fused=gpu or device.type == "cpu", capturable=gpu
        )
        self.rates = iter(recipe.rates(len(data)))
        self.generator = torch.Generator().manual_seed(seed)
        self.loss = torch.zeros((), device=device)  # the sum over the batches of an epoch
        self.failure: str | None = None
        self.boundaries: list[Tensor] = []
        self.turned: list[Tensor] = []
        self.stream = torch.cuda.Stream(device) if gpu else None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch = torch.zeros(recipe.batch_size, dtype=torch.int64, device=device)  # what the graph reads
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def steps(self) -> Iterator[None]:
        """One pass over the data, a step at a time."""
        device, size = self.data.pictures.device, self.recipe.batch_size
        order = torch.randperm(len(self.data), generator=self.generator)
        with torch.cuda.stream(self.stream):
            self.loss.zero_()
            parts = order.to(device).split(batches(len(order), size))
        for number, batch in enumerate(parts):
            with torch.cuda.stream(self.stream):
                self.rate.fill_(next(self.rates))
                if self.stream and len(batch) == size and (self.graph or number >= WARM_UP):
                    self._replay(batch)
                else:
                    self._step(batch)
            yield

    def _replay(self, batch: Tensor) -> None:
        self.batch.copy_(batch)
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):
                self._step(self.batch)
        self.graph.replay()

    def _step(self, batch: Tensor) -> None:
        pictures = self.data.seen(self.data.pictures[batch])
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            logits = self.network(pictures.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), self.data.labels[batch])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.loss += loss.detach()

    def close(self, epoch: int) -> None:
        """What is to be told after an epoch."""
        with torch.cuda.stream(self.stream), torch.no_grad():
            if not math.isfinite(float(self.loss)):
                self.failure = f"the training loss is not a finite number in epoch {epoch}"
            elif not all(bool(value.isfinite().all()) for value in self.network.state_dict().values()):
                self.failure = f"a weight is not a finite number after epoch {epoch}"  # the loss is of before the step
            self.boundaries.append(self.network.linear.weight.detach().cpu().clone())
            ways = zip(layers(self.start).values(), layers(self.network).values(), strict=True)
            self.turned.append(torch.stack([angle(before, now) for before, now in ways]).cpu())

    def trained(self) -> Trained:
        network = self.network.eval().requires_grad_(False)
        return Trained(network, self.failure, torch.stack(self.boundaries), torch.stack(self.turned))


def batches(pictures: int, size: int) -> list[int]:
    """How many pictures each step of an epoch sees. A last one alone joins those before it: batch norm needs two.

    >>> batches(8, 3), batches(7, 3)
    ([3, 3, 2], [3, 4])
    """
    whole, rest = divmod(pictures, size)
    if whole and rest == 1:
        return [size] * (whole - 1) + [size + 1]
    return [size] * whole + [rest] * (rest > 0)


def _together(sets: Sequence[Pixels]) -> int:
    """How many networks train side by side: small ones leave most of a GPU idle."""
    if not sets or sets[0].pictures.device.type != "cuda":
        return 1
    return max(TOGETHER // sets[0].pictures[0, 0].numel(), 1)


def layers(network: Classifier) -> dict[str, Tensor]:
    """Weights of two dimensions and more, by name."""
    return {name: weight.detach() for name, weight in network.named_parameters() if weight.dim() > 1}


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between two tensors, taken as vectors."""
    cosine = F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0)
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))


@contextmanager
def faults_told() -> Iterator[None]:
    """Raises InputError, in a line, for what a network raises in training alone, and for a lack of memory."""
    try:
        yield
    except Exception as error:  # whatever the user's own network raises
        if is_lack_of_memory(error):
            raise InputError(
                "there is not enough memory to train every layer; give a smaller --size, or fewer pictures"
            ) from error
        raise InputError(
            f"the network cannot be trained, it raised {fault(error)}; mend it: in training, too, it takes pictures "
            "(n, 3, H, W) and returns features (n, d)"
        ) from error


def is_lack_of_memory(error: Exception) -> bool:
    """Whether that is what was raised, and no other fault."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(said in str(error) for said in _NO_MEMORY)
    )


def portions(pictures: Tensor) -> tuple[Tensor, ...]:
    """Pictures (n, 3, H, W) as they go through a network together where nothing is learnt."""
    chunks: tuple[Tensor, ...] = pictures.split(max(ASKED // pictures.shape[2:].numel(), 1))
    return chunks


@torch.inference_mode()
def answers(network: Classifier, data: Pixels) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits, labels) in chunks, in full precision."""
    chunks = portions(data.pictures)
    for pictures, labels in zip(chunks, data.labels.split([len(chunk) for chunk in chunks]), strict=True):
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
