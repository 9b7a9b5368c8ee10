"""The batched solver against autograd and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from poisonfrogs.logistic import Heads, Rows, loss_and_gradient, solve

pytestmark = pytest.mark.usefixtures("one_thread")


def problem(
    classes: int, *, heads: int = 5, own: int = 2, removed: int = 0, n: int = 60, d: int = 7, seed: int = 0
) -> Rows:
    """Overlapping classes, in float64."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=g, dtype=torch.float64)
    labels = torch.arange(n) % classes
    features = centres[labels] + torch.randn(n, d, generator=g, dtype=torch.float64)
    gone = torch.stack([torch.randperm(n, generator=g)[:removed] for _ in range(heads)])
    return Rows(
        features=features,
        labels=labels,
        own=torch.randn(heads, own, d, generator=g, dtype=torch.float64) * 2,
        own_labels=torch.randint(0, classes, (heads, own), generator=g),
        removed=gone,
    )


def set_of(rows: Rows, head: int) -> tuple[Tensor, Tensor]:
    """The training set of one head, written out."""
    keep = [i for i in range(len(rows.features)) if i not in rows.removed[head].tolist()]
    return torch.cat([rows.features[keep], rows.own[head]]), torch.cat([rows.labels[keep], rows.own_labels[head]])


shapes = pytest.mark.parametrize(
    ("classes", "own", "removed"), [(2, 1, 0), (2, 3, 3), (4, 1, 1), (4, 0, 0), (3, 0, 2)], ids=str
)


@shapes
def test_the_gradient_is_autograds(classes, own, removed):
    rows = problem(classes, own=own, removed=removed)
    g = torch.Generator().manual_seed(9)
    weight = torch.randn(5, 7, classes, generator=g, dtype=torch.float64).requires_grad_()
    bias = torch.randn(5, classes, generator=g, dtype=torch.float64).requires_grad_()
    loss, slope = loss_and_gradient(Heads(weight.detach(), bias.detach()), rows, rows.kept(), classes)
    total = torch.zeros(())
    for head in range(5):
        x, y = set_of(rows, head)
        mine = F.cross_entropy(x @ weight[head] + bias[head], y, reduction="sum")
        assert loss[head].item() == pytest.approx(mine.item(), rel=1e-12)
        total = total + mine
    by_weight, by_bias = torch.autograd.grad(total, (weight, bias))
    assert torch.allclose(slope.weight, by_weight, rtol=0, atol=1e-11)
    assert torch.allclose(slope.bias, by_bias, rtol=0, atol=1e-11)


@shapes
@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_the_solution_is_scikit_learns(classes, own, removed, c):
    rows = problem(classes, own=own, removed=removed, heads=3)
    heads, converged = solve(rows, classes, c=c, tolerance=1e-9)
    assert converged.all()
    probe = torch.randn(20, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for head in range(3):
        x, y = set_of(rows, head)
        reference = LogisticRegression(C=c, tol=1e-10, max_iter=20000).fit(x.numpy(), y.numpy())
        expected = reference.predict_proba(probe.numpy())
        if classes == 2:  # scikit-learn has one vector for two classes: half the penalty of two opposite ones
            reference = LogisticRegression(C=2 * c, tol=1e-10, max_iter=20000).fit(x.numpy(), y.numpy())
            expected = reference.predict_proba(probe.numpy())
            assert (
                np.abs((heads.weight[head, :, 1] - heads.weight[head, :, 0]).numpy() - reference.coef_[0]).max() < 1e-4
            )
        else:
            assert np.abs(heads.weight[head].T.numpy() - reference.coef_).max() < 1e-4
        assert np.abs(heads.predict(probe)[head].numpy() - expected).max() < 1e-5


@shapes
def test_heads_solved_together_are_those_solved_alone(classes, own, removed):
    rows = problem(classes, own=own, removed=removed)
    together, converged = solve(rows, classes, c=10.0, tolerance=1e-12)
    assert converged.all()
    for head in range(5):
        alone, converged = solve(rows.part(torch.tensor([head])), classes, c=10.0, tolerance=1e-12)
        assert converged.all()
        assert torch.allclose(alone.weight[0], together.weight[head], rtol=0, atol=1e-9)
        assert torch.allclose(alone.bias[0], together.bias[head], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("tolerance", "iterations"), [(1e-3, 1000), (1e-9, 1000), (0.0, 40)], ids=str)
def test_a_head_does_not_notice_how_long_its_neighbours_take(tolerance, iterations):
    """Stopped early, converged, or out of iterations: the same bits, whatever stands beside it."""
    rows = problem(3, heads=4)
    own = rows.own.clone()
    own[0::2] = 0.0  # easy neighbours instead
    easy = Rows(rows.features, rows.labels, own, rows.own_labels, rows.removed)
    first, _ = solve(rows, 3, c=100.0, tolerance=tolerance, iterations=iterations)
    second, _ = solve(easy, 3, c=100.0, tolerance=tolerance, iterations=iterations)
    assert torch.equal(first.weight[1::2], second.weight[1::2])
    assert torch.equal(first.bias[1::2], second.bias[1::2])
    assert not torch.equal(first.weight[0], second.weight[0])


def test_where_rounding_ends_the_descent_the_optimum_is_reached():
    """Asked for more than float64 holds, every head rests at its optimum and says that it has not converged."""
    rows = problem(3, heads=4)
    resting, converged = solve(rows, 3, c=1.0, tolerance=0.0)
    assert not converged.all()
    settled, converged = solve(rows, 3, c=1.0, tolerance=1e-11)
    assert converged.all()
    assert torch.allclose(resting.weight, settled.weight, rtol=0, atol=1e-8)


def test_the_start_changes_the_way_and_not_the_end():
    rows = problem(3)
    cold, _ = solve(rows, 3, c=5.0, tolerance=1e-10)
    one = Rows(rows.features, rows.labels, rows.own[:1, :0], rows.own_labels[:1, :0], rows.removed[:1, :0])
    clean, _ = solve(one, 3, c=5.0, tolerance=1e-6)
    warm, converged = solve(rows, 3, c=5.0, start=clean, tolerance=1e-10)
    assert converged.all()
    assert torch.allclose(cold.weight, warm.weight, rtol=0, atol=1e-7)
    again, _ = solve(rows, 3, c=5.0, start=cold, tolerance=1e-9)
    assert torch.equal(again.weight, cold.weight)  # started at its end, nothing is to be done


def test_what_did_not_converge_says_so():
    _, converged = solve(problem(3), 3, c=1000.0, tolerance=1e-12, iterations=3)
    assert not converged.any()


def test_no_heads_are_solved_in_no_time():
    rows = problem(2, heads=3).part(torch.tensor([], dtype=torch.int64))
    heads, converged = solve(rows, 2, c=1.0)
    assert heads.weight.shape == (0, 7, 2)
    assert converged.shape == (0,)


def test_prediction_for_shared_and_for_own_features():
    g = torch.Generator().manual_seed(2)
    heads = Heads(torch.randn(3, 4, 2, generator=g), torch.randn(3, 2, generator=g))
    shared, own = torch.randn(5, 4, generator=g), torch.randn(3, 5, 4, generator=g)
    for head in range(3):
        by_hand = torch.softmax(shared @ heads.weight[head] + heads.bias[head], -1)
        assert torch.allclose(heads.predict(shared)[head], by_hand, atol=1e-6)
        by_hand = torch.softmax(own[head] @ heads.weight[head] + heads.bias[head], -1)
        assert torch.allclose(heads.predict(own)[head], by_hand, atol=1e-6)
    assert heads.predict(shared).sum(-1).allclose(torch.ones(3, 5))
