# make demo        build two datasets from example pictures and say where to look
# make quickstart  train a ControlNet on drawn shapes, without a GPU, and measure whether it follows them
# make test        the tests, all but the slow ones, on all cores
# make test-all    all tests, and which took longest
# make lint        format, lint, layers, dead code, types
# make bench       the speed of a build (minutes); all that can be measured: python -m bench --list
# Each creates .venv and installs what it needs, once; what pip says is in .venv/pip.log.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal  # what one process compiles, hundreds read

.PHONY: demo quickstart test test-all lint format bench clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

quickstart: $(INSTALLED)
	$(BIN)/python examples/quickstart.py

test: $(INSTALLED)
	$(PYTEST)

test-all: $(INSTALLED)
	$(PYTEST) -m "slow or not slow" --durations=10

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/vulture
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/python -m bench build

# pip works behind a line every five seconds that says what it is at; all that it said is shown where it fails.
$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing condprep and all that it can use into .venv: some GB, once"
	@$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]' > .venv/pip.log 2>&1 & pip=$$!; \
	trap 'kill $$pip' INT TERM; \
	while sleep 5 && kill -0 $$pip 2> /dev/null; do \
		grep -E '^ *(Collecting|Downloading|Building|Installing)' .venv/pip.log | tail -n 1 | cut -c 1-100; \
	done; \
	wait $$pip || { cat .venv/pip.log; exit 1; }
	@touch $(INSTALLED)

clean:
	rm -rf .venv demo quickstart
