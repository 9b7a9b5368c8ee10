"""Fixtures that several test files share."""

from __future__ import annotations

import os

# before any library that looks is imported: as the command line does, and tests never ask a hub
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Iterator
from pathlib import Path

import pytest

import toy
from poisonfrogs.plan import Audit

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data and weights of development, ../shared or POISONFROGS_SHARED; in CI they have to be there."""
    path = Path(os.environ.get("POISONFROGS_SHARED", TESTS.parent.parent / "shared"))
    if not path.is_dir():
        reason = f"{path} is not there; set POISONFROGS_SHARED"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for features, shared by the tests of a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def toy_folder(tmp_path: Path) -> Path:
    """A fresh image folder of two separable classes, 12 training and 4 test pictures each, of 32 × 32."""
    return toy.write_folder(tmp_path / "toy")


@pytest.fixture
def toy_model() -> str:
    """The name of the toy network, as --model takes it."""
    return "toy:factory"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 test pictures of the toy data: three groups of trials."""
    return toy.write_folder(tmp_path_factory.mktemp("toy") / "toy", train=12, test=20)


@pytest.fixture
def audit(data: Path, tmp_path: Path, cache: Path) -> Audit:
    """A small audit of the toy data that has not run."""
    return Audit(
        data=data,
        model="toy:factory",
        out=tmp_path / "run",
        cache=cache,
        threads=1,
        passes=3,
        head="logistic:1",
        precision="fp32",
        targets=6,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path, cache: Path) -> Path:
    """A finished audit of twelve toy targets, some of which fall, with an auditor."""
    out = tmp_path_factory.mktemp("report") / "run"
    from poisonfrogs.audit import run_audit  # torch takes seconds to import

    run_audit(
        Audit(
            data=data, model="toy:factory", out=out, cache=cache, threads=1, passes=20, head="logistic:100",
            precision="fp32", targets=12, eps=64 / 255, auditor="toy:factory",
        )
    )  # fmt: skip
    return out


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures a forward pass instead of sixteen: large networks, and bits that are not compared."""
    monkeypatch.setattr("poisonfrogs.models.BATCH", 2)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A thread for all arithmetic: tiny products wait for each other's threads a hundred times their length."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture
def here(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the folder `toy` in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
