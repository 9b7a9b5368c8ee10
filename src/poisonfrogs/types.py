"""The nouns of the project and the protocols its parts meet at. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor


class InputError(Exception):
    """What the caller gave cannot be used: an argument a fault, each what was got, what was expected, what to do."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a poison is to collide with, in the feature space of one network."""

    feature: Tensor  # (d,) f(t), the target's feature
    axis: Tensor  # (d,) unit vector from the mean of the base class to the mean of the target's class


@dataclass(frozen=True, kw_only=True)
class Crafted:
    """Poisons as an attack leaves them: 8 bits a channel, ready to be stored."""

    pictures: list[Tensor]  # uint8 (3, h, w) each, the size of its base
    passes: list[int]  # forward + backward passes spent on each
    failures: list[str | None]  # why a picture could not be crafted, else None


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A change to a training set: pictures put in, rows taken out."""

    added: tuple[Image, ...]  # RGB, decoded from the file as stored
    label: int  # of every added picture
    removed: tuple[int, ...] = ()  # rows of the training set, for poisons that replace their bases


# (pictures) -> features (n, d), differentiable; pictures (3, h, w) in [0, 1], each of its own size
Extractor = Callable[[list["Tensor"]], "Tensor"]
# (features (n, d), indices of the n pictures in the batch) -> bool (n,)
Test = Callable[["Tensor", list[int]], "Tensor"]


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Which pictures need no more passes."""

    likely: Test  # cheap, of features as the attack has them; at least those that `sure` would believe of the same
    sure: Test  # of the pictures as they will be stored, in full precision


class Attack(Protocol):
    """Turns base pictures into poisons, many goals at once."""

    def __call__(
        self, net: Extractor, bases: Sequence[Tensor], goals: Sequence[Goal], *, stop: Stop, checks: Sequence[Extractor]
    ) -> Crafted:
        """`bases`: uint8 (3, h, w). `checks`: the same network in full precision, once for each change that a stored
        picture is to withstand; `stop.sure` is asked of each, about the pictures that are `stop.likely`."""
        ...


class Predict(Protocol):
    """A trained classifier: pictures -> (n, classes) probabilities, or (n,) class numbers."""

    def __call__(self, images: Sequence[Image]) -> np.ndarray: ...


class Victim(Protocol):
    """Training code: what `--victim module:function` names. `images` are RGB and decoded on demand."""

    def __call__(self, images: Sequence[Image], labels: np.ndarray, *, seed: int) -> Predict: ...


class Opinion(TypedDict):
    """What an independent network said of the stored poisons."""

    n_poisons: int
    n_agreed: int  # called what their label says
    agreement: float | None
    ci95: list[float]  # Wilson's interval of it
    n_bases_agreed: int  # the same of their unperturbed bases


class Defended(TypedDict):
    """The certified head beside the usual one, on the same targets and poisons."""

    family: str
    parameters: dict[str, Any]
    n_eligible: int  # targets that it gets right on the clean training set
    n_success: int  # of these, with the stored poisons
    success_rate: float | None
    ci95: list[float]
    n_perfect_success: int  # with as many insertions at the target's own place in feature space
    perfect_success_rate: float | None
    perfect_ci95: list[float]
    n_broken: int  # certificates that did not hold; anything but 0 is a fault of ours
    median_radius: float  # on the test pictures; a wrong answer counts as 0
    accuracy: float
    certified: dict[str, float]  # operations, 1 and 1 % of the training pictures -> share of right, proved answers


class Counted(TypedDict):
    """What the rows of a journal come to; None where there is nothing to count."""

    n_trials: int  # all that were drawn
    n_eligible: int  # those whose control is right
    n_success: int
    success_rate: float | None  # over the eligible; None where there are none
    ci95: list[float]  # Wilson's interval of it
    n_failed_trials: int
    control_rate: float | None  # share of all drawn whose control is wrong
    control_ci95: list[float]
    n_as_jpeg: int  # eligible targets of which a poison was asked about as JPEG too, as its base is one
    n_as_jpeg_success: int
    as_jpeg_rate: float | None  # the same with the poisons stored as JPEG, as their bases are; None where they are not
    as_jpeg_ci95: list[float] | None
    watermark_only_rate: float | None  # the same with the watermarked bases, not crafted; None without --watermark
    watermark_only_ci95: list[float] | None
    median_confidence: float | None  # of the base class at the target, over the eligible
    control_median_confidence: float | None  # the same without the poison
    clean_accuracy: float | None  # mean of the controls', on the test pictures other than the target
    mean_accuracy_drop: float | None
    worst_accuracy_drop: float | None
    median_passes: float | None
    median_linf: float | None  # of the stored pictures, in [0, 1], from what crafting started with
    median_linf_from_base: float | None  # the same from the picture itself, without a watermark
    auditor: Opinion | None  # with --auditor


class CleanNetwork(TypedDict):
    """The network that poisons were made with, where the victims train every layer."""

    training_loss: float  # mean cross-entropy on its training pictures, after training
    training_accuracy: float
    test_accuracy: float
    recipe: dict[str, Any]


class Summary(Counted):
    """What an audit found; summary.json and `--format json` hold the same."""

    schema_version: int
    certified_success_rate: float | None  # beside success_rate, with --head certified
    certified: Defended | None
    clean_network: CleanNetwork | None  # with --context end-to-end and scratch
    seconds_per_trial: float
    checks: list[dict[str, str]]  # name and message of those that fired
    model: dict[str, str]  # name, weights (SHA-256), source
    seed: int
    versions: dict[str, str]
    hardware: str


class Certificate(TypedDict):
    """What one certified classifier reaches on the test pictures. Keys of `certified`: numbers of operations."""

    family: str  # neighbours, radius, partitions, stable
    parameters: dict[str, Any]
    accuracy: float
    accuracy_ci95: list[float]
    median_radius: float  # a wrong answer counts as 0
    certified: dict[str, float]  # share answered rightly, provably, whatever so many operations do
    certified_ci95: dict[str, list[float]]


class CertifySummary(TypedDict):
    """What certify found; summary.json and `--format json` hold the same."""

    schema_version: int
    n_train: int
    n_test: int
    classes: list[str]
    against: int  # operations that the recommended head was chosen for
    undefended_accuracy: float  # of the usual head, which one picture fells
    undefended_ci95: list[float]
    recommended: Certificate
    chosen: str  # how it was chosen
    frontier: list[Certificate]
    seconds: list[float]  # fit and answers, of each on the frontier
    assumptions: list[str]
    model: dict[str, str]
    seed: int
    versions: dict[str, str]
    hardware: str
