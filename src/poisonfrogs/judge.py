"""Who says whether a poison worked: victims trained beside their controls, each asked about its target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from poisonfrogs.data import Edited, Images
from poisonfrogs.logistic import Heads, Rows
from poisonfrogs.models import Net
from poisonfrogs.train import Recipe
from poisonfrogs.types import Edit, InputError, Victim
from poisonfrogs.zoo import fault

_UNEVEN = 0.01  # what a row of probabilities may lack of 1, or have beyond it: the user's own may be of half precision


@dataclass(frozen=True, eq=False)
class Scene:
    """The pictures of an audit and their features in one network."""

    net: Net
    classes: tuple[str, ...]
    train: Images
    test: Images  # what measures accuracy
    targets: Images  # the test pictures, then targets from outside
    train_features: Tensor  # (n, d)
    target_features: Tensor  # (m, d), a row for each of `targets`


@dataclass(frozen=True, eq=False)
class Verdict:
    """What one victim says."""

    probabilities: np.ndarray  # (classes,) of the target
    accuracy: float  # on the test pictures other than the target
    normals: Tensor | None  # (classes, d) weights of a linear head
    biases: Tensor | None = None  # (classes,) of that head
    failure: str | None = None  # why the victim could not be trained; then the rest is what guessing gives
    space: Mapping[str, Tensor] | None = None  # what a victim of its own features leaves for the report
    boundaries: Tensor | None = None  # (epochs, classes, d): its last layer's weights on the way, if it trains them all
    turned: Mapping[str, list[float]] | None = None  # degrees of each layer from where it started, after each epoch


@dataclass(frozen=True, eq=False)
class Auditor:
    """A network that has no part in the attack, with a head trained on the clean training set: what does it see?"""

    net: Net
    heads: Heads  # one

    def __call__(self, images: Sequence[Image]) -> Tensor:
        """Probabilities (n, classes)."""
        return self.heads.predict(self.net.features(images))[0]

    @classmethod
    def trained(cls, net: Net, recipe: Recipe, features: Tensor, labels: Tensor, classes: int, *, seed: int) -> Auditor:
        """`features` (n, d) of the clean training pictures in `net`."""
        none = torch.empty(1, 0, dtype=torch.int64)
        rows = Rows(features, labels, features[None, :0], none, none)
        return cls(net, recipe(rows, classes, seed=seed))


class Judge(Protocol):
    """Trains one victim for each edit of the training set, all from one seed, and asks each about its target."""

    def __call__(self, scene: Scene, edits: Sequence[Edit], targets: Sequence[int], *, seed: int) -> list[Verdict]:
        """`targets`: for each edit, the row in `scene.targets`."""
        ...


@dataclass(frozen=True)
class HeadJudge:
    """Heads on the frozen extractor's features, all edits in one batch."""

    recipe: Recipe

    def __call__(self, scene: Scene, edits: Sequence[Edit], targets: Sequence[int], *, seed: int) -> list[Verdict]:
        """See Judge. The added pictures go through the library's own transform, in full precision."""
        added = scene.net.features([image for edit in edits for image in edit.added])
        rows = Rows(
            features=scene.train_features,
            labels=torch.from_numpy(scene.train.labels),
            own=added.view(len(edits), -1, added.shape[1]),
            own_labels=torch.tensor([[edit.label] * len(edit.added) for edit in edits]),
            removed=torch.tensor([edit.removed for edit in edits], dtype=torch.int64).view(len(edits), -1),
        )
        heads = self.recipe(rows, len(scene.classes), seed=seed)
        asked = heads.predict(scene.target_features[list(targets)][:, None])[:, 0]
        right = self._right(scene, heads)
        return [
            Verdict(asked[i].numpy(), accuracy(right[i], target), heads.weight[i].T, heads.bias[i])
            for i, target in enumerate(targets)
        ]

    @staticmethod
    def _right(scene: Scene, heads: Heads) -> np.ndarray:
        """(H, test pictures): which of them each head gets right."""
        labels = torch.from_numpy(scene.test.labels)
        chunks = torch.arange(len(labels)).split(4096)
        right = [heads.logits(scene.target_features[rows]).argmax(-1) == labels[rows] for rows in chunks]
        return np.asarray(torch.cat(right, 1))


@dataclass(frozen=True)
class VictimJudge:
    """The user's own training code, once for each edit."""

    victim: Victim
    name: str

    def __call__(self, scene: Scene, edits: Sequence[Edit], targets: Sequence[int], *, seed: int) -> list[Verdict]:
        """See Judge. Raises InputError where the user's code fails."""
        verdicts = []
        for edit, target in zip(edits, targets, strict=True):
            images = Edited(scene.train, edit)
            labels = images.labels(scene.train.labels)
            predict = self._asked(partial(self.victim, images, labels, seed=seed))
            if not callable(predict):
                raise InputError(
                    f"{self.name} returned a {type(predict).__name__}; expected a function of pictures, such as its "
                    "predict_proba"
                )
            said = self._probabilities(self._asked(partial(predict, scene.targets)), scene)
            right = said[: len(scene.test)].argmax(1) == scene.test.labels
            verdicts.append(Verdict(said[target], accuracy(right, target), None))
        return verdicts

    def _asked(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # whatever the user's code raises
            raise InputError(
                f"{self.name} raised {fault(error)}; mend it, then the same command goes on where it was"
            ) from error

    def _probabilities(self, said: Any, scene: Scene) -> np.ndarray:
        count, classes = len(scene.targets), len(scene.classes)
        try:
            said = np.asarray(said, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:  # names of classes, a tensor with a gradient or on a GPU
            raise InputError(
                f"the predict that {self.name} returned gave what is no array of numbers ({error}); "
                f"expected finite probabilities ({count}, {classes}) or class numbers ({count},)"
            ) from None
        if said.shape == (count,) and np.isin(said, range(classes)).all():
            return np.asarray(np.eye(classes)[said.astype(int)])
        if said.shape != (count, classes) or not np.isfinite(said).all():
            raise InputError(
                f"the predict that {self.name} returned gave {said.shape}; "
                f"expected finite probabilities ({count}, {classes}) or class numbers ({count},)"
            )
        if said.min() < 0 or abs(said.sum(1) - 1).max() > _UNEVEN:
            raise InputError(
                f"the predict that {self.name} returned gave numbers from {said.min():.4g} to {said.max():.4g} whose "
                "rows do not add up to 1; expected probabilities, as a softmax makes them of logits"
            )
        return np.asarray(said)


def accuracy(right: np.ndarray, target: int) -> float:
    """The share of right answers on the test pictures (n,) other than the target, a row of them or beyond."""
    return float(np.delete(right, target).mean() if target < len(right) else right.mean())
