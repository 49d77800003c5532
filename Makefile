# make demo        build two datasets from example pictures and say where to look
# make quickstart  train a ControlNet on drawn shapes, without a GPU, and measure whether it follows them
# make test        the fast tests
# make lint        format, lint, types
# make bench       the speed of a build (minutes); all that can be measured: python -m bench --list
# Each creates .venv and installs what it needs, once.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo quickstart test test-all lint format bench clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

quickstart: $(INSTALLED)
	$(BIN)/python examples/quickstart.py

test: $(INSTALLED)
	$(BIN)/python -m pytest

test-all: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/python -m bench build

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

clean:
	rm -rf .venv demo quickstart
