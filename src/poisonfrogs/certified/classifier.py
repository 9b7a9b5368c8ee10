"""What the certified classifiers share: features as whole numbers, rows that are of no use, answers with a radius.

Each family is a scikit-learn estimator that fits, and a torch module that answers; the module is what is saved.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    assert_all_finite,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)
from torch import Tensor, nn

LEVELS = 2048  # a unit vector in whole numbers: the partial sums of any product stay below 2**24, exact in float32
BLOCK = 256  # rows that are answered at a time
_ACCEPTED: dict[str, Any] = {"dtype": [np.float64, np.float32], "ensure_all_finite": False}

Matrix = NDArray[Any]


class Answers(NamedTuple):
    """What a certified head says about n rows, as tensors or as arrays."""

    codes: Any  # (n,) numbers of the predicted classes
    radius: Any  # (n,) insertions and removals that cannot change them
    probabilities: Any  # (n, classes)


class Head(nn.Module):
    """A fitted certified classifier: features (n, d) -> Answers, on any device and in any batch the same.

    Tensors become buffers, whole numbers and switches attributes. `.half()` of a network leaves them as they are.
    """

    card: dict[str, Any]  # of a head that was loaded

    def __init__(self, **parts: Tensor | int) -> None:
        super().__init__()
        for name, value in parts.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self.eval()

    def forward(self, features: Tensor) -> Answers:
        """Rows that are not finite or all zero get the first class, with radius 0."""
        whole, usable = whole_numbers(features)
        codes, radius, probabilities = self.answer(whole)
        return Answers(
            torch.where(usable, codes, 0),
            torch.where(usable, radius.clamp(min=0), 0),
            torch.where(usable[:, None], probabilities, 1 / probabilities.shape[1]),
        )

    def answer(self, whole: Tensor) -> Answers:
        """Answer rows of whole numbers; a negative radius is that of a tie."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # the proof is about the fitted numbers: they move to another device, and are never rounded to another type
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # type: ignore[no-untyped-call]
        return self


class CertifiedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the certified classifiers: `fit`, `predict`, `predict_proba` and `certified_radius` on features (n, d).

    A row is scaled to length 1 and rounded to whole numbers of 1/2048, by itself: nothing is learnt
    from the rows beside it. Training rows with NaN, infinite or only zero features, and those whose label is
    not among `classes` where these are given, are left out one by one and warned about, never raised on: an
    insertion must not stop the service. Asked about such a row, the classifier gives its first class, with radius 0.

    `classes`: the labels there are. Without it they are those of the training rows, which have to be of one type.
    """

    classes: ArrayLike | None
    limits: ClassVar[dict[str, tuple[Any, float, float]]]  # parameter -> kind, least, most

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803
        """Fit on features (n, d) and labels (n,). The order of the rows does not matter, to the last bit.

        Raises ValueError for a parameter out of range, and where no row can be used.
        """
        for name, (kind, least, most) in self.limits.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:
                noun = "a whole number" if kind is Integral else "a number"
                raise ValueError(f"{name}={value!r} is out of range; expected {noun} from {least:g} to {most:g}")
        features = torch.from_numpy(np.require(validate_data(self, X, **_ACCEPTED), requirements=["C", "W"]))
        self.classes_, codes = _coded(y, self.classes)
        check_consistent_length(features, codes)
        whole, usable = (part.numpy() for part in whole_numbers(features))
        kept = np.flatnonzero(usable & (codes >= 0))
        self.n_dropped_ = len(codes) - len(kept)
        if self.n_dropped_:
            left_out = (
                f"{self.n_dropped_} of {len(codes)} training rows left out: {np.sum(~usable)} with features that are "
                f"not finite or all zero, {np.sum(codes < 0)} with a label that is not among the classes"
            )
            if not len(kept):
                raise ValueError(f"no training row can be used; {left_out}")
            warnings.warn(left_out, stacklevel=2)
        digests = [digest(row) for row in whole[kept]]
        order = sorted(range(len(kept)), key=lambda i: (codes[kept[i]], digests[i]))
        self.head_ = self._head(whole[kept[order]], codes[kept[order]])
        return self

    def answers(self, X: ArrayLike) -> Answers:  # noqa: N803
        """Predictions, radii and probabilities of features (n, d), in one pass."""
        check_is_fitted(self)
        features = torch.from_numpy(
            np.require(validate_data(self, X, reset=False, **_ACCEPTED), requirements=["C", "W"])
        )
        with torch.inference_mode():
            parts = [self.head_(block) for block in features.split(BLOCK)]
        return Answers(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))

    def predict(self, X: ArrayLike) -> Matrix:  # noqa: N803
        """Labels (n,)."""
        codes = self.answers(X).codes
        return np.asarray(self.classes_[codes])

    def predict_proba(self, X: ArrayLike) -> Matrix:  # noqa: N803
        """Shares of the votes, or the head's probabilities: (n, classes)."""
        return np.asarray(self.answers(X).probabilities)

    def certified_radius(self, X: ArrayLike) -> NDArray[np.int64]:  # noqa: N803
        """For each row: as many training examples can be inserted or removed, in any mixture, with any content and
        any label, without changing its prediction (n,). An edited example is one removed and one inserted.
        """
        return np.asarray(self.answers(X).radius)

    def _head(self, whole: Matrix, codes: Matrix) -> Head:
        """Fit on rows in an order that depends on them alone: by class, then by digest of the content."""
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def whole_numbers(features: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length `LEVELS`, rounded: float32 (n, d), and which rows can be used (n,).

    >>> whole_numbers(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    (tensor([[1229., 1638.],
            [   0.,    0.]]), tensor([ True, False]))
    """
    usable = features.isfinite().all(1) & (features != 0).any(1)
    parts = []
    for part, fine in zip(features.split(4096), usable.split(4096), strict=True):
        rows = torch.where(fine[:, None], part.double(), 1.0)
        rows = rows / rows.abs().amax(1, keepdim=True)  # squares of 1e200 are infinite
        rows = (rows * (LEVELS / rows.square().sum(1, keepdim=True).sqrt())).round()
        parts.append(torch.where(fine[:, None], rows, 0.0).float())
    return torch.cat(parts), usable


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of whole numbers, exact: in float32, or in float64 where torch may round float32 in products."""
    kind = torch.float64 if _rounds(a.device.type) else torch.float32
    return a.to(kind) @ b.to(kind)


def _rounds(device: str) -> bool:
    try:
        return torch.get_float32_matmul_precision() != "highest" or torch.is_autocast_enabled(device)
    except RuntimeError:  # set through torch.backends.*.fp32_precision, which this call cannot read
        return True


def digest(row: Matrix) -> bytes:
    """Of the content of a row of whole numbers."""
    return hashlib.blake2b(row.astype("<i2").tobytes(), digest_size=16).digest()


def lead(votes: Tensor, codes: Tensor) -> Tensor:
    """By how many votes each row's class leads its strongest rival, or a class that nobody has voted for yet (n,).

    >>> lead(torch.tensor([[5, 2, 1], [0, 0, 4]]), torch.tensor([0, 2]))
    tensor([3, 4])
    """
    own = votes.gather(1, codes[:, None])[:, 0]
    return own - votes.scatter(1, codes[:, None], 0).amax(1)


def shares(votes: Tensor) -> Tensor:
    """Votes as probabilities (n, classes); equal ones where nobody votes."""
    total = votes.sum(1, keepdim=True)
    return torch.where(total > 0, votes / total.clamp(min=1).double(), 1 / votes.shape[1])


def _coded(y: ArrayLike, classes: ArrayLike | None) -> tuple[Matrix, Matrix]:
    """The classes, sorted, and the number of each label; -1, whatever it is, for one that is not among them."""
    if classes is None:
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        known: Matrix = np.unique(labels)
    else:
        labels, known = np.asarray(y, dtype=object).ravel(), np.unique(column_or_1d(classes))
        if not len(known):
            raise ValueError("classes is empty; expected the labels there are")
    number = {label: code for code, label in enumerate(known.tolist())}
    return known, np.array([_number(number, label) for label in labels.tolist()], dtype=np.int64)


def _number(numbers: Mapping[Any, int], label: Any) -> int:
    try:
        return numbers.get(label, -1)
    except TypeError:  # a list, say, which has no hash
        return -1
