# make demo · make test · make check · make bench
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test check bench clean

demo: .venv/installed
	$(BIN)/poisonfrogs demo --out runs/demo

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/dogfish_all.py --short
	$(BIN)/python benchmarks/bases.py --short
	$(BIN)/python benchmarks/passes.py --short
	$(BIN)/python benchmarks/profile_audit.py --short
	$(BIN)/python benchmarks/storage.py --short
	$(BIN)/python benchmarks/recipe.py --short
	$(BIN)/python benchmarks/certified.py dogfish

clean:
	rm -rf .venv runs

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
