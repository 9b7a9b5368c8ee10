"""Imports go down only: read off the source, module by module."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import poisonfrogs

# low to high; a module may import from the layers above it in this list, and from none beside it
LAYERS = [
    {"types", "progress"},
    {"stats", "journal", "pictures", "views", "descent", "logistic", "checkpoints", "text", "small", "frozen"},
    {"tree", "sources", "signing"},
    {"certified.classifier", "manifest", "pair", "robust"},
    {"provenance"},
    {"plan", "images", "zoo", "attacks.collision"},
    {"certified.radius", "certified.neighbours", "certified.partitions", "certified.stable"},
    {"certified"},
    {"certified.saved"},
    {"folders", "tables", "train", "training", "models", "evasion", "summary"},
    {"data"},
    {"neighbours"},
    {"compare"},
    {"match"},
    {"findings"},
    {"features", "judge", "targets"},
    {"pipeline", "exhibits", "checks", "defence"},
    {"trial", "certify", "answering", "engine", "end_to_end"},
    {"cluster", "costs", "plan_file", "recorded"},
    {"audit"},
    {"grid"},
    {"report.folder", "report.html", "report.projection"},
    {"report.embed", "report.figures"},
    {"report.drawings", "report.layers"},
    {"report.sections.headline", "report.sections.kills", "report.sections.numbers", "report.sections.space"}
    | {"report.sections.arms", "report.sections.explained", "report.sections.copies", "report.sections.reproduce"},
    {"report.sections.guarantee", "report.sections.points", "report.sections.turns"},
    {"report.page"},
    {"cli.values"},
    {"cli"},
    {"cli.show", "cli.pages"},
    {"cli.certify", "cli.provenance", "cli.match"},
    {"cli.commands"},
    {"__main__"},
]
EMPTY = {"", "attacks", "report", "report.sections"}  # packages that import nothing
# the command line calls itself: main parses, commands print
BESIDE = {("cli", "cli.commands"), ("cli.commands", "cli.pages"), ("cli.commands", "cli.show")}

SOURCE = Path(poisonfrogs.__file__).parent
HEIGHT = {module: height for height, layer in enumerate(LAYERS) for module in layer}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imported_by(text: str) -> set[str]:
    """Modules of ours that a source imports, anywhere in it.

    >>> sorted(imported_by("from poisonfrogs import data\\nfrom poisonfrogs.cli.show import audit"))
    ['cli.show', 'data']
    """
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        ours = [
            name.removeprefix("poisonfrogs").removeprefix(".")
            for name in names
            if f"{name}.".startswith("poisonfrogs.")
        ]
        modules = [name for name in ours if name in MODULES]
        found.update((max((name for name in modules), key=len, default=None) and modules) or [])
    return {name for name in found if name not in EMPTY}


def test_every_module_has_its_layer():
    assert set(MODULES) - EMPTY == set(HEIGHT)
    assert len(HEIGHT) == sum(map(len, LAYERS))


@pytest.mark.parametrize("module", sorted(set(MODULES) - EMPTY))
def test_imports_go_down(module):
    for other in imported_by(MODULES[module].read_text()):
        if (module, other) in BESIDE:
            continue
        assert HEIGHT[other] < HEIGHT[module], f"{module} imports {other}, which stands beside or above it"


@pytest.mark.parametrize("module", sorted(EMPTY))
def test_the_packages_themselves_import_nothing_of_ours(module):
    assert not imported_by(MODULES[module].read_text())


def test_an_arrow_upwards_would_be_seen():
    assert imported_by("def f():\n    from poisonfrogs.audit import run_audit") == {"audit"}
    assert imported_by("from poisonfrogs import checks, data") == {"checks", "data"}
    assert imported_by("import poisonfrogs.trial as t, os") == {"trial"}
    assert imported_by("import torch\nfrom pathlib import Path") == set()


def test_files_stay_short():
    for path in MODULES.values():
        assert len(path.read_text().splitlines()) <= 400, path
