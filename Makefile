# Two commands for a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow lowest lint format hooks coverage package docs clean

demo: .venv/installed
	$(BIN)/nat2 run

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Longer attacks, and the demo from a wheel in a fresh environment.
slow: .venv/installed
	$(BIN)/python -m pytest -m slow

# The tests with the oldest versions that pyproject.toml allows.
lowest: build/lowest/installed
	build/lowest/bin/python -m pytest -n 2 --dist worksteal

coverage: .venv/installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	! git grep -nE '^(<{7}|>{7}|[|]{7})( |$$)'
	! git grep -nIE '[[:blank:]]+$$'

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Checks before every commit: .pre-commit-config.yaml.
hooks: .venv/installed
	$(BIN)/pre-commit install

# Wheel and sdist in dist/, and the demo from the wheel in a fresh environment.
package: .venv/installed
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m pytest -m slow tests/test_package.py

docs: .venv/installed
	$(BIN)/python -m mkdocs build --strict

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

build/lowest/installed: pyproject.toml
	$(PYTHON) -m venv --clear build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/lowest/bin/uv pip install --quiet --resolution lowest-direct -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist htmlcov .coverage* src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
