"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import toy

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library that looks is imported: tests never ask a hub
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
