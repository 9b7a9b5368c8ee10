"""The certified classifiers as estimators: scikit-learn's contract, odd rows and labels, the same answer however it is asked."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import parametrize_with_checks

import certificates as attack
from poisonfrogs.certified import NeighbourVotes, PartitionVotes, RadiusVotes, StableHead
from poisonfrogs.certified.classifier import product, whole_numbers
from poisonfrogs.certified.neighbours import NeighbourHead

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = [
    RadiusVotes(0.3),
    NeighbourVotes(5),
    PartitionVotes(5, 0.1),
    PartitionVotes(5, 0.1, run_off=True),
    StableHead(1.0),
]
models = pytest.mark.parametrize("model", MODELS, ids=["radius", "neighbours", "partitions", "run-off", "stable"])


@parametrize_with_checks(
    [RadiusVotes(0.8), NeighbourVotes(3), PartitionVotes(1), PartitionVotes(1, run_off=True), StableHead(0.1)]
)
def test_the_checks_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ training rows left out", UserWarning)
        check(estimator)


def data(n: int = 300, d: int = 12, classes: int = 3, seed: int = 0):
    """Overlapping classes, labels as words, and rows to ask about."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, d))
    y = rng.integers(0, classes, n + 40)
    X = centres[y] + rng.normal(size=(n + 40, d))
    return X[:n], np.array(["frog", "plane", "boat", "toad"])[y[:n]], X[n:]


def same(a, b) -> bool:
    """Every fitted number and every answer, to the last bit."""
    return same_state(a.head_, b.head_) and (a.classes_ == b.classes_).all()


def same_state(a, b) -> bool:
    state, other = a.state_dict(), b.state_dict()
    assert state.keys() == other.keys()
    return all(torch.equal(state[name], other[name]) for name in state)


def equal_answers(a, b, *, exact=True) -> bool:
    return (
        np.array_equal(a.codes, b.codes)
        and np.array_equal(a.radius, b.radius)
        and (np.array_equal if exact else np.allclose)(a.probabilities, b.probabilities)
    )


@models
def test_the_order_of_the_data_does_not_matter(model):
    X, y, rows = data()
    X, y = (
        np.vstack([X, X[:30], X[:30]]),
        np.append(y, [*y[:30], *y[1:31]]),
    )  # duplicates, and the same rows under other labels
    one = clone(model).fit(X, y)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(X))
        two = clone(model).fit(X[order], y[order])
        assert same(one, two)
        assert equal_answers(one.answers(rows), two.answers(rows))


@models
def test_every_layout_of_the_data_gives_the_same(model):
    """Reversed, column by column, read-only, every other row of a larger array, lists."""
    X, y, rows = data()
    one = clone(model).fit(X, y)
    locked, wide = X.copy(), np.repeat(X, 2, axis=0)[:, ::-1]
    locked.flags.writeable = False
    for other, labels in [
        (X[::-1], y[::-1]),
        (np.asfortranarray(X), y),
        (locked, y),
        (wide[::2, ::-1], y),
        (X.tolist(), y.tolist()),
    ]:
        assert same(one, clone(model).fit(other, labels))
    answers = one.answers(rows)
    for other in (np.asfortranarray(rows), rows[::-1][::-1], rows.tolist()):
        assert equal_answers(one.answers(other), answers)


@models
def test_answers_do_not_depend_on_the_batch(model):
    X, y, _ = data()
    rows = data(n=560, seed=1)[0]
    fitted = clone(model).fit(X, y)
    together, turned = fitted.answers(rows), fitted.answers(rows[::-1])
    alone = [fitted.answers(row[None]) for row in rows]
    exact = not isinstance(model, StableHead)  # its logits are sums in float64, not of whole numbers
    assert equal_answers(type(together)(*(part[::-1] for part in turned)), together, exact=exact)
    assert equal_answers(
        type(together)(*(np.concatenate(part) for part in zip(*alone, strict=True))), together, exact=exact
    )
    assert equal_answers(fitted.answers(np.repeat(rows, 3, axis=0)[::3]), together, exact=exact)


@models
def test_single_precision_gives_the_same(model):
    X, y, rows = data()
    X, rows = X.astype(np.float32), rows.astype(np.float32)
    one, two = clone(model).fit(X, y), clone(model).fit(X.astype(np.float64), y)
    assert same(one, two)
    assert equal_answers(one.answers(rows), two.answers(rows.astype(np.float64)))


@models
def test_torch_gives_the_same(model):
    """The module alone, at any precision of products, under autocast."""
    X, y, rows = data()
    fitted = clone(model).fit(X, y)
    answers = fitted.answers(rows)
    for kind in (torch.float64, torch.float32):
        fresh = fitted.answers(rows.astype(str(kind).removeprefix("torch.")))
        assert equal_answers(
            type(answers)(*(part.numpy() for part in fitted.head_(torch.tensor(rows, dtype=kind)))), fresh
        )
    with torch.autocast("cpu", torch.bfloat16):
        assert equal_answers(type(answers)(*(part.numpy() for part in fitted.head_(torch.tensor(rows)))), answers)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert equal_answers(fitted.answers(rows), answers)
    finally:
        torch.set_float32_matmul_precision(before)


@models
@pytest.mark.parametrize("cast", ["half", "bfloat16", "float", "double"])
def test_a_network_that_is_cast_answers_with_the_same_head(model, cast):
    """Its numbers are what was proved about, in whatever type the body before it computes."""
    X, y, rows = data()
    fitted = clone(model).fit(X, y)
    whole = torch.nn.Sequential(torch.nn.Linear(len(X[0]), 2), copy.deepcopy(fitted.head_))
    getattr(whole, cast)()
    assert whole[0].weight.dtype == getattr(torch, cast)
    said = whole[1](torch.tensor(rows))
    assert equal_answers(type(said)(*(part.numpy() for part in said)), fitted.answers(rows))
    assert same_state(whole[1], fitted.head_)
    whole.to("meta")
    assert {buffer.device.type for buffer in whole.buffers()} == {"meta"}


@models
@pytest.mark.parametrize("backend", ["mkldnn", "cuda"])
def test_the_newer_switches_of_precision(model, backend):
    """After them torch does not say any more, by the older question, how it multiplies."""
    X, y, rows = data()
    fitted = clone(model).fit(X, y)
    answers = fitted.answers(rows)
    switch = getattr(torch.backends, backend).matmul
    before = switch.fp32_precision
    try:
        switch.fp32_precision = "bf16" if backend == "mkldnn" else "tf32"
        assert equal_answers(fitted.answers(rows), answers)
    finally:
        switch.fp32_precision = before


def test_products_are_exact():
    """In as many dimensions as extractors have, of the longest rows there are, against whole numbers of 64 bits."""
    rng = np.random.default_rng(0)
    for d in (3, 1280, 4096):
        rows = rng.normal(size=(40, d)) * rng.choice([0.0, 1.0, 30.0], size=(40, d), p=[0.3, 0.6, 0.1])
        rows[:, 0] += 0.01
        whole, usable = whole_numbers(torch.tensor(rows))
        assert usable.all()
        assert whole.tolist() == [attack.whole(row) for row in rows.tolist()]
        longest = (whole + whole.sign()).long()  # longer than rounding ever makes one
        found = product(longest.float(), (3000 * longest.double() / 2048).round().T)
        assert (found.long() == longest @ (3000 * longest.double() / 2048).round().long().T).all()


ODD = {
    "NaN": np.nan,
    "infinite": np.inf,
    "minus infinite": -np.inf,
    "zero": 0.0,
}


@models
@pytest.mark.parametrize("kind", ODD)
def test_rows_of_no_use_are_left_out_one_by_one(model, kind):
    X, y, rows = data()
    odd = X[:5].copy()
    odd[:, slice(None) if kind == "zero" else 3] = ODD[kind]
    clean = clone(model).fit(X, y)
    with pytest.warns(UserWarning, match=r"5 of 305 training rows left out.*5 with features") as caught:
        fitted = clone(model).fit(np.vstack([odd[:2], X, odd[2:]]), np.concatenate([y[:2], y, y[:3]]))
    assert len(caught) == 1
    assert fitted.n_dropped_ == 5
    assert same(fitted, clean)
    answers = fitted.answers(np.vstack([odd[:1], rows]))
    assert answers.codes[0] == 0
    assert answers.radius[0] == 0
    assert answers.probabilities[0] == pytest.approx(1 / 3)
    assert equal_answers(type(answers)(*(part[1:] for part in answers)), clean.answers(rows), exact=False)


@models
def test_a_label_of_rows_of_no_use_alone(model):
    """Its class has no example: it never wins where another has one near."""
    X, y, rows = data()
    odd = np.full((3, X.shape[1]), np.nan)
    with pytest.warns(UserWarning, match="3 of 303"):
        fitted = clone(model).fit(np.vstack([odd, X]), np.append(["zebra"] * 3, y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = clone(model).fit(X, y)
    assert fitted.classes_.tolist() == [*plain.classes_.tolist(), "zebra"]
    if not isinstance(model, StableHead):
        assert (fitted.predict(rows) == plain.predict(rows)).all()


@models
def test_huge_and_tiny_rows_are_rows(model):
    """A row's length does not matter, from subnormal numbers to the largest."""
    X, y, rows = data()
    X, rows = X / np.abs(X).max(), rows / np.abs(rows).max()
    one = clone(model).fit(X, y)
    powers = 2.0 ** np.random.default_rng(0).choice([-900, -60, 0, 60, 900, 1000], size=(len(X), 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two = clone(model).fit(X * powers, y)
        assert same(one, two)
        assert equal_answers(two.answers(rows * powers[: len(rows)]), one.answers(rows))
        constant = two.answers(np.array([[1e200] * 12, [1e-200] * 12, [5e-324] * 12, [1.7e308] * 12, [3.0] * 12]))
    assert len(set(constant.codes.tolist())) == 1
    assert len(set(constant.radius.tolist())) == 1


@models
def test_constant_data(model):
    """Every row the same: the larger class, as far as there are classes."""
    fitted = clone(model).fit(np.full((30, 4), 7.0), ["b"] * 18 + ["a"] * 12)
    # all are as near, and neighbours as near count as the attacker would have it: the first class
    expected = "a" if isinstance(model, NeighbourVotes) else "b"
    assert fitted.predict([[1, 1, 1, 1]]).tolist() == [expected]
    assert fitted.certified_radius([[1, 1, 1, 1]])[0] >= 0


@models
@pytest.mark.parametrize("bad", [np.nan, 0.0])
def test_no_row_of_any_use(model, bad):
    with pytest.raises(ValueError, match=r"^no training row can be used; 4 of 4 training rows left out: 4 [^\n]*$"):
        clone(model).fit(np.full((4, 3), bad), [0, 1, 0, 1])


@models
@pytest.mark.parametrize(
    ("labels", "known"),
    [
        (["frog", "newt", "frog", "a very long label"], ["frog", "plane"]),
        ([0, 5, 0, -7], [0, 1]),
        ([0.0, 0.5, 0.0, np.nan], [0, 1]),
        ([1.0, np.inf, 1.0, 1e300], [0, 1]),
        (np.array(["frog", None, "frog", 3], dtype=object), ["frog", "plane"]),
        (np.array([0, "frog", 0, b"0"], dtype=object), [0, 1]),
        (["frog", ["frog"], "frog", (1, [2])], ["frog", "plane"]),
    ],
    ids=["words", "numbers", "NaN", "infinite", "None", "mixed", "no hash"],
)
def test_labels_that_are_not_among_the_classes_are_left_out(model, labels, known):
    X = np.array([[1.0, 0.2], [0.0, 1.0], [1.0, 0.1], [0.3, 1.0]])
    with pytest.warns(UserWarning, match=r"2 of 4 training rows left out: 0 with features.* 2 with a label") as caught:
        fitted = clone(model).set_params(classes=known).fit(X, labels)
    assert len(caught) == 1
    assert fitted.classes_.tolist() == known
    assert same(fitted, clone(model).set_params(classes=known).fit(X[[0, 2]], [labels[0]] * 2))
    with pytest.raises(ValueError, match="no training row can be used"):
        clone(model).set_params(classes=known).fit(X[[1, 3]], [labels[1], labels[3]])


@models
def test_classes_that_are_given(model):
    """Sorted and each once; one that the data lack has a column, and is not predicted."""
    X, y, rows = data()
    plain, given = (
        clone(model).fit(X, y),
        clone(model).set_params(classes=["plane", "zebra", "frog", "boat", "frog", "ant"]).fit(X, y),
    )
    assert given.classes_.tolist() == ["ant", "boat", "frog", "plane", "zebra"]
    shares = given.predict_proba(rows)
    assert shares.shape == (40, 5)
    if not isinstance(model, StableHead):
        assert (given.predict(rows) == plain.predict(rows)).all()
        assert np.array_equal(shares[:, 1:4], plain.predict_proba(rows))
        assert np.array_equal(given.certified_radius(rows), plain.certified_radius(rows))
    with pytest.raises(ValueError, match="classes"):
        clone(model).set_params(classes=[]).fit(X, y)


@models
@pytest.mark.parametrize("n", [1, 2, 40])
def test_one_class(model, n):
    X, _, rows = data(n=n)
    fitted = clone(model).fit(X, ["only"] * n)
    codes, radius, shares = fitted.answers(rows)
    assert set(fitted.predict(rows)) == {"only"}
    assert (codes == 0).all()
    assert np.array_equal(shares, np.ones((40, 1)))
    assert (radius >= 0).all()
    assert (radius < n).all()  # the last row cannot be removed, a new label may come


@models
def test_shares_add_up_and_agree_with_the_prediction(model):
    X, y, rows = data(n=400, classes=4)
    fitted = clone(model).fit(X, y)
    shares = fitted.predict_proba(rows)
    assert shares.dtype == np.float64
    assert shares.sum(1) == pytest.approx(np.ones(40), abs=1e-12)
    assert (shares >= 0).all()
    if not getattr(model, "run_off", False):
        assert (fitted.classes_[shares.argmax(1)] == fitted.predict(rows)).all()


def test_equal_votes_go_to_the_first_class():
    X, y = [[1.0, 0.1], [1.0, 0.1], [1.0, 0.1]], ["b", "a", "c"]
    for model in (RadiusVotes(0.5), NeighbourVotes(2), NeighbourVotes(1), NeighbourVotes(50), PartitionVotes(3)):
        codes, radius, _ = model.fit(X, y).answers([[1.0, 0.1], [0.9, 0.0]])
        assert codes.tolist() == [0, 0]
        assert radius.tolist() == [0, 0]


def test_nobody_near_enough_to_vote():
    model = RadiusVotes(0.9).fit([[1.0, 0.0], [1.0, 0.1]], ["b", "a"])
    codes, radius, shares = model.answers([[-1.0, 0.0]])
    assert (codes.tolist(), radius.tolist(), shares.tolist()) == ([0], [0], [[0.5, 0.5]])


def as_tiny(X, y, rows) -> attack.Tiny:
    return attack.Tiny(X, y, rows, rows)


def test_radius_votes_are_counted():
    X, y, rows = data(n=150)
    y = np.unique(y, return_inverse=True)[1]
    for threshold in (-1.0, -0.2, 0.0, 0.35, 0.5, 0.9, 1.0):
        model = RadiusVotes(threshold, classes=range(3)).fit(X, y)
        for row, shares in zip(rows[:10], model.predict_proba(rows[:10]), strict=True):
            votes = attack.votes_within(as_tiny(X, y, rows), row.tolist(), threshold)
            expected = [votes[c] / votes.total() if votes else 1 / 3 for c in range(3)]
            assert shares == pytest.approx(expected, abs=1e-12)


def test_neighbour_votes_are_counted():
    """Among equal cosines, which whole numbers in few dimensions make many of, the first class."""
    rng = np.random.default_rng(2)
    X, y = rng.integers(-2, 3, size=(120, 2)) + np.array([0, 0.5]), rng.integers(0, 3, 120)
    rows = rng.integers(-2, 3, size=(10, 2)) + np.array([0.5, 0.0])
    for k in (1, 2, 7, 50, 119, 120, 121, 2**31):
        model = NeighbourVotes(k).fit(X, y)
        for row, shares in zip(rows, model.predict_proba(rows), strict=True):
            labels = [label for _, label in attack.nearest(as_tiny(X, y, rows), row.tolist())[:k]]
            assert shares == pytest.approx(np.bincount(labels, minlength=3) / len(labels), abs=1e-12)


def test_cosines_of_any_size_keep_their_order():
    """Thrice what cosines come to in 700,000 dimensions is beyond what float32 tells apart."""
    near = [9.0 * (670_015 - 2 * flipped) for flipped in (1, 3, 5, 7, 8, 9)]
    member = torch.eye(2, dtype=torch.int8)[[0, 0, 1, 1, 0, 1]]
    told = [
        NeighbourHead(examples=torch.tensor(cosines)[:, None], member=member, k=5).answer(torch.ones(1, 1)).radius
        for cosines in (near, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize("d", [3, 40])
@pytest.mark.parametrize("alpha", [0.01, 1.0, 100.0])
def test_partitions_vote_as_ridge_regressions_do(d, alpha):
    """scikit-learn's on the partitions that the hash makes; heads whose two best are closer than rounding aside."""
    X, y, rows = data(n=400, d=d)
    y = np.unique(y, return_inverse=True)[1]
    parts = 17
    model = PartitionVotes(parts, alpha).fit(X, y)
    unit, asked = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (X, rows))
    where = np.array([attack.partition(x, parts) for x in X.tolist()])
    votes, unsure = np.zeros((40, 3)), np.zeros(40)
    for part in np.unique(where):
        mine = where == part
        scores = Ridge(alpha).fit(unit[mine], np.eye(3)[y[mine]]).predict(asked)
        scores[:, np.bincount(y[mine], minlength=3) == 0] = -np.inf
        votes[np.arange(40), scores.argmax(1)] += 1
        ordered = np.sort(scores, axis=1)
        unsure += ordered[:, -1] - ordered[:, -2] < 5e-3
    found = model.predict_proba(rows) * len(np.unique(where))
    assert (np.abs(found - votes).sum(1) <= 2 * unsure + 1e-9).all()
    assert unsure.mean() < 2


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("alpha", [0.1, 5.0, 300.0])
def test_the_stable_head_is_logistic_regression(classes, alpha):
    """scikit-learn's at C = 1 / alpha, its two-class form at half the strength, the bias as a feature."""
    X, y, rows = data(n=200, classes=classes)
    model = StableHead(alpha).fit(X, y)
    unit, asked = (np.array([attack.whole(x) for x in part.tolist()]) / 2048 for part in (X, rows))
    extended, wanted = (np.hstack([part, np.ones((len(part), 1))]) for part in (unit, asked))
    strength = alpha / 2 if classes == 2 else alpha
    other = LogisticRegression(C=1 / strength, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(extended, y)
    assert model.predict_proba(rows) == pytest.approx(other.predict_proba(wanted), abs=2e-5)
    assert (model.predict(rows) == other.predict(wanted)).all()


BAD = [
    *[(RadiusVotes, "threshold", value) for value in (1.01, -1.5, np.nan, np.inf, None, "0.3", True, [0.3])],
    *[(NeighbourVotes, "k", value) for value in (0, -1, 1.5, 3.0, np.nan, None, "3", True, 2**40)],
    *[(PartitionVotes, "n_partitions", value) for value in (0, -1, 1.5, np.nan, None, "3", True, 2**40)],
    *[
        (kind, "alpha", value)
        for kind in (PartitionVotes, StableHead)
        for value in (0, -1.0, np.nan, np.inf, None, "1", True)
    ],
    (PartitionVotes, "alpha", 1e-17),
    (StableHead, "alpha", 1e300),
]


@pytest.mark.parametrize(("kind", "name", "value"), BAD, ids=lambda value: getattr(value, "__name__", repr(value)))
def test_a_parameter_out_of_range_is_named(kind, name, value):
    model = kind(**{name: value})  # the constructor does not look
    with pytest.raises(ValueError, match=rf"^{name}=[^\n]*$"):
        model.fit([[1.0, 0.0], [0.0, 1.0]], [0, 1])


def test_numbers_of_numpy_are_parameters():
    X, y, rows = data()
    for model in (
        NeighbourVotes(np.int64(7)),
        PartitionVotes(np.int32(7), np.float32(0.5)),
        RadiusVotes(np.float32(0.5)),
        StableHead(np.int64(3)),
    ):
        plain = type(model)(
            **{name: getattr(value, "item", lambda value=value: value)() for name, value in model.get_params().items()}
        )
        assert same(model.fit(X, y), plain.fit(X, y))
        assert equal_answers(model.answers(rows), plain.answers(rows))


@models
def test_parameters_and_searches(model):
    X, y, rows = data()
    assert clone(model).get_params() == model.get_params()
    fitted = make_pipeline(Normalizer(), clone(model)).fit(X, y)
    assert fitted.score(X, y) > 0.5
    assert cross_val_score(clone(model), X, y, cv=3).shape == (3,)
    name = next(iter(model.limits))
    search = GridSearchCV(clone(model), {name: [0.1, 0.4] if name == "threshold" else np.array([3, 9])}, cv=3).fit(X, y)
    assert search.best_estimator_.certified_radius(rows).shape == (40,)


@models
def test_the_users_arrays_are_left_alone(model):
    X, y, rows = data()
    X[3, 2], rows[1, 1] = np.nan, np.inf
    before, asked = X.copy(), rows.copy()
    with pytest.warns(UserWarning, match="1 of 300"):
        fitted = clone(model).fit(X, y)
    fitted.answers(rows)
    assert np.array_equal(X, before, equal_nan=True)
    assert np.array_equal(rows, asked)


@models
def test_wrong_shapes_raise(model):
    X, y, rows = data()
    with pytest.raises(ValueError, match="inconsistent"):
        clone(model).fit(X, y[:-1])
    fitted = clone(model).fit(X, y)
    with pytest.raises(ValueError, match="features"):
        fitted.predict(rows[:, :-1])
    with pytest.raises(ValueError, match="0 sample"):
        fitted.predict(rows[:0])
    with pytest.raises(ValueError, match="2D"):
        fitted.predict(rows[0])
