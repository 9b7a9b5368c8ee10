"""The paper's picture of the feature space (Shafahi et al. 2018): two axes for two classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Plane:
    """Where features are shown: along u = μ_base − μ_target, and along the part of θ that is orthogonal to u.

    θ lies in the plane, so the side of the boundary that a point is shown on is the side that it is on.
    """

    u: np.ndarray  # (d,) unit
    v: np.ndarray  # (d,) unit, or zeros where θ is parallel to u
    line: tuple[float, float, float]  # the boundary a·x + b·y + c = 0; above 0 is the base class

    def __call__(self, features: np.ndarray) -> list[tuple[float, float]]:
        """(n, d) -> n points."""
        # NumPy's warnings about matrix products with float16 rows are avoided by computing in float64
        rows = np.atleast_2d(features).astype(np.float64)
        return [(float(x), float(y)) for x, y in rows @ np.stack([self.u, self.v], 1)]


def plane(base_mean: np.ndarray, target_mean: np.ndarray, normal: np.ndarray, offset: float) -> Plane:
    """`normal`, `offset`: θ·f + offset > 0 is the base class.

    >>> shown = plane(np.array([1.0, 0, 0]), np.zeros(3), np.array([2.0, 3.0, 0]), -1.0)
    >>> shown(np.array([[4.0, 5.0, 6.0]])), shown.line
    ([(4.0, 5.0)], (2.0, 3.0, -1.0))
    """
    between = base_mean.astype(np.float64) - target_mean
    u = between / (np.linalg.norm(between) or 1.0)
    theta = normal.astype(np.float64)
    rest = theta - (theta @ u) * u
    length = float(np.linalg.norm(rest))
    v = rest / length if length > 1e-9 * (np.linalg.norm(theta) or 1.0) else np.zeros_like(rest)
    return Plane(u, v, (float(theta @ u), float(theta @ v), float(offset)))
