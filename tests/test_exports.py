"""The public names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import poisonfrogs


def test_the_names_are_sorted_few_and_distinct():
    assert list(poisonfrogs.__all__) == sorted(set(poisonfrogs.__all__))
    assert 0 < len(poisonfrogs.__all__) <= 50


@pytest.mark.parametrize("name", poisonfrogs.__all__)
def test_every_name_can_be_imported_and_says_what_it_is(name):
    found = getattr(poisonfrogs, name)
    assert found.__doc__
    assert found.__module__.startswith("poisonfrogs.")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'poisonfrogs' has no attribute 'nonsense'"):
        _ = poisonfrogs.nonsense


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"torch", "torchvision", "timm", "numpy", "scipy", "PIL", "pyarrow", "skimage"}
    assert not loaded_after("import poisonfrogs") & heavy
    assert "torch" in loaded_after("import poisonfrogs; poisonfrogs.Collision")  # and the test sees what is loaded


def test_an_audit_without_a_certified_head_starts_without_scikit_learn():
    assert "sklearn" not in loaded_after("import poisonfrogs.audit, poisonfrogs.grid")
    assert "sklearn" in loaded_after("import poisonfrogs.defence")


def test_the_commands_are_parsed_without_torch():
    assert "torch" not in loaded_after("import poisonfrogs.cli.commands, poisonfrogs.plan")
