"""A certified head as a second victim: what the poisons do to it, and what as many perfect collisions do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from torch import Tensor

from poisonfrogs.certified import Answers, CertifiedClassifier
from poisonfrogs.certified.saved import FAMILIES, family, parameters
from poisonfrogs.judge import Scene
from poisonfrogs.plan import VOTERS, Trial, operations
from poisonfrogs.stats import rounded, wilson
from poisonfrogs.types import Defended, InputError

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Defence:
    """A certified classifier fitted on the clean training set; each trial fits another on a poisoned one."""

    clean: CertifiedClassifier
    features: NDArray[np.float32]  # (n, d) of the training pictures
    labels: NDArray[np.int64]
    test: Answers  # of the test pictures, which measure accuracy
    test_labels: NDArray[np.int64]

    @classmethod
    def fitted(cls, classifier: CertifiedClassifier, scene: Scene) -> Defence:
        """On the clean training pictures."""
        features, labels = scene.train_features.numpy(), scene.train.labels
        clean = classifier.fit(features, labels)
        test = clean.answers(scene.target_features[: len(scene.test)].numpy())
        return cls(clean, features, labels, test, scene.test.labels)

    def trial(self, trial: Trial, scene: Scene, poisons: Tensor, removed: Sequence[int]) -> Row:
        """What becomes of the target with the stored poisons (k, d), and with as many at its own place in feature
        space: a perfect collision. An attacker who knows of radius or neighbour votes can insert nothing worse.
        """
        target, classes = scene.target_features[trial.target], scene.classes
        before = self.clean.answers(target[None].numpy())
        perfect = target.expand(len(poisons), -1)
        after = [self._said(target, added, trial.base_class, removed) for added in (poisons, perfect)]
        code, radius, spent = int(before.codes[0]), int(before.radius[0]), len(poisons) + len(removed)
        return {
            "predicted": classes[code],
            "radius": radius,
            "poisoned": classes[after[0]],
            "perfect": classes[after[1]],
            "right": code == trial.target_class,
            "success": code == trial.target_class and after[0] == trial.base_class,
            "perfect_success": code == trial.target_class and after[1] == trial.base_class,
            "broken": radius >= spent and any(one != code for one in after),
        }

    def _said(self, target: Tensor, added: Tensor, label: int, removed: Sequence[int]) -> int:
        features = np.concatenate([np.delete(self.features, list(removed), axis=0), added.numpy()])
        labels = np.append(np.delete(self.labels, list(removed)), [label] * len(added))
        return int(clone(self.clean).fit(features, labels).answers(target[None].numpy()).codes[0])

    def counted(self, rows: Sequence[Row]) -> Defended:
        """What the trials' rows come to, beside the head's accuracy and what is proved of it."""
        asked = [row["certified"] for row in rows if row["certified"]["right"]]
        fell, perfect = (sum(row[key] for row in asked) for key in ("success", "perfect_success"))
        right = self.test.codes == self.test_labels
        percent = operations("1%", len(self.labels))
        return {
            "family": family(self.clean),
            "parameters": parameters(self.clean),
            "n_eligible": len(asked),
            "n_success": fell,
            "success_rate": round(fell / len(asked), 6) if asked else None,
            "ci95": rounded(wilson(fell, len(asked))),
            "n_perfect_success": perfect,
            "perfect_success_rate": round(perfect / len(asked), 6) if asked else None,
            "perfect_ci95": rounded(wilson(perfect, len(asked))),
            "n_broken": sum(row["certified"]["broken"] for row in rows),
            "median_radius": float(np.median(np.where(right, self.test.radius, 0))),
            "accuracy": round(float(right.mean()), 6),
            "certified": {
                str(r): round(float((right & (self.test.radius >= r)).mean()), 6) for r in sorted({1, percent})
            },
        }


def fitted(head: str) -> Callable[[Scene], Defence]:
    """How the head that `--head` names is fitted to a scene. Raises InputError, as `prototype`."""
    make = prototype(head)
    return lambda scene: Defence.fitted(make(len(scene.train), len(scene.classes)), scene)


def prototype(head: str) -> Callable[[int, int], CertifiedClassifier]:
    """`certified[:FAMILY[:PARAMETER]]` -> (training pictures, classes) -> an unfitted classifier.

    >>> prototype("certified:radius:0.3")(1000, 2).threshold
    0.3
    >>> prototype("certified")(1000, 2).k
    101

    Raises InputError for an unknown family, and for a parameter that it cannot have.
    """
    _, _, rest = head.partition(":")
    name, _, value = rest.partition(":")
    name = name or "neighbours"
    if name not in FAMILIES:
        raise InputError(f"--head {head!r} is unknown; expected certified:FAMILY, one of {', '.join(FAMILIES)}")
    kind = FAMILIES[name][0]
    option, (number, least, most) = next(iter(kind.limits.items()))
    try:
        given = {option: (int if number is Integral else float)(value)} if value else {}
    except ValueError:
        said = f"expected a number for {option}, such as certified:{name}:{least:g}"
        raise InputError(f"--head {head!r}: {value!r} is no number; {said}") from None
    if given and not least <= given[option] <= most:
        raise InputError(f"--head {head!r}: {option} is out of range; expected from {least:g} to {most:g}")

    def make(n_train: int, classes: int) -> CertifiedClassifier:
        rule = {"k": (operations("1%", n_train) * VOTERS + 1) | 1} if name == "neighbours" else {}
        return kind(**{**rule, **given}, classes=range(classes))

    return make
