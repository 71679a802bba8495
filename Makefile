# Two commands: `make study` runs a whole study, `make test` runs lint, types and tests.
# `make ui` opens MLflow on the studies in mlruns/, on this machine only, and prints links to their views.
# For maintainers: `make test-latest` runs the tests on the newest releases of all that we depend on, and
# `make constraints` writes the installed versions into constraints.txt (BIN=.venv-latest/bin for those newest), and
# `make test-lowest` runs the tests on the lowest versions that pyproject.toml allows, whose warnings are ignored.
PYTHON ?= python3
BIN := .venv/bin
# One thread a torch process; idle OpenMP threads must sleep, or two processes slow each other down.
export OMP_WAIT_POLICY := passive
# Print what we depend on: the names without the bounds on their versions, and each in its lowest version.
NEEDED := import re, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	needed = project["dependencies"] + project["optional-dependencies"]["dev"];
NAMES := $(NEEDED) print(*(re.match(r"[\w.\[\]-]+", line)[0] for line in needed))
LOWEST := $(NEEDED) print(*(line.split(",")[0].replace(">=", "==") for line in needed))

.PHONY: study ui test lint types test-latest test-lowest constraints clean

study: .venv/.installed
	$(BIN)/python study/run.py --space dkd_grid

ui: .venv/.installed
	$(BIN)/python -m analysis.ui

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.installed-dev
	$(BIN)/mypy

test-latest: .venv-latest/bin/python
	$< -m pip install --quiet --upgrade --upgrade-strategy eager $$($< -c '$(NAMES)')
	$< -m pip install --quiet --no-deps --editable .
	OMP_NUM_THREADS=1 $< -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test-lowest: .venv-lowest/bin/python
	$< -m pip install --quiet $$($< -c '$(LOWEST)')
	$< -m pip install --quiet --no-deps --editable .
	OMP_NUM_THREADS=1 $< -m pytest -W ignore --numprocesses auto --dist loadfile --no-loadscope-reorder

constraints:
	echo '# The versions that the suite passes on, written by `make constraints`.' > constraints.txt
	$(BIN)/python -m pip list --format freeze --exclude-editable --exclude pip >> constraints.txt

.venv/bin/python .venv-latest/bin/python .venv-lowest/bin/python: %/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("needs Python 3.11 or newer, found " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $*

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .venv-latest .venv-lowest
