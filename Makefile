# Two commands: `make study` runs a whole study, `make test` runs lint, types and tests.
PYTHON ?= python3
BIN := .venv/bin
# One thread a torch process; idle OpenMP threads must sleep, or two processes slow each other down.
export OMP_WAIT_POLICY := passive

.PHONY: study test lint types clean

study: .venv/.installed
	$(BIN)/python study/run.py --space dkd_grid

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.installed-dev
	$(BIN)/mypy

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("needs Python 3.11 or newer, found " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/.installed-dev: pyproject.toml .venv/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv
