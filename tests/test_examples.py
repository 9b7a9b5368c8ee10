"""The worked examples of the three ways in: each ends, and its output names what it says it names."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The run folder of the audit that scraping and insider do: given to them, it is whole and is not done again."""
    folder = tmp_path_factory.mktemp("audited")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.syspath_prepend(EXAMPLES)
        from poisons import pictures, poisons

        assert len(poisons(pictures(folder), folder / "audit")) == 2
    return folder / "audit"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scraping", ["perturbed        frog/cute-frog.png  of train/frog/", "12 pictures against"]),
        ("harvesting", ["came in from upload: 2", "train/frog/mallory/1.png", "blended in at 0.3", "of train/frog/"]),
        ("insider", ["changed          train/frog/", "is not as it was signed: train/frog/", "perturbed        "]),
    ],
)
def test_an_example_catches_what_it_plants(
    name: str,
    said: list[str],
    audited: Path,
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.syspath_prepend(EXAMPLES)
    if name != "harvesting":
        shutil.copytree(audited, tmp_path / "audit")
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    captured = capsys.readouterr()
    for text in said:
        assert text in captured.out + captured.err


def test_each_says_what_is_not_caught_and_is_short() -> None:
    for name in ("scraping", "harvesting", "insider"):
        text = (EXAMPLES / f"{name}.py").read_text()
        assert "\nNot caught: " in text
        assert len(text.splitlines()) < 100
