# Two commands do everything on a fresh machine with Python 3.11 or later:
#   make quickstart   trains a ControlNet on the built-in base and data, in a few minutes on two CPU cores
#   make test         lint, types and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lint types tests slow crash full-size bench format clean

quickstart: $(VENV)/.installed
	$(BIN)/everstep train circles --run quickstart

test: lint types tests

lint: $(VENV)/.installed
	$(BIN)/ruff check src tests tools bench examples
	$(BIN)/ruff format --check src tests tools bench examples

types: $(VENV)/.installed
	$(BIN)/mypy

# What make test leaves out because it takes long, but for the networks of true sizes.
slow: $(VENV)/.installed
	$(BIN)/python tools/run_tests.py -m slow --timeout 7200

tests: $(VENV)/.installed
	$(BIN)/python tools/run_tests.py

# The long crash suite: every test that injects a fault, at many more moments, and every guard taken out once. Counts what
# it did into docs/reliability.json and .md, also where something failed. EVERSTEP_CRASH_SEED picks other moments.
EVERSTEP_CRASH_ROUNDS ?= 200
crash: $(VENV)/.installed
	EVERSTEP_CRASH_ROUNDS=$(EVERSTEP_CRASH_ROUNDS) EVERSTEP_FAULT_TABLE=docs/reliability.json \
	  $(BIN)/python -m pytest tests -m '(fault or guard) and not full_size' --timeout 7200; \
	  ended=$$?; $(BIN)/python tools/fault_table.py docs/reliability.json docs/reliability.md && exit $$ended

# Networks of the true sizes of Stable Diffusion 1.5 and XL, with random weights: trained, killed, rescued, handed on, and
# what a step takes of memory beside what plan said. Needs 24 GB of memory, 45 GB of disk, about an hour, and the
# machine for itself.
full-size: $(VENV)/.installed
	rm -rf build/full-size
	$(BIN)/python -m pytest tests/full_size -m full_size -s; \
	  ended=$$?; $(BIN)/python bench/full_size.py && exit $$ended

bench: $(VENV)/.installed
	$(BIN)/python bench/start.py
	$(BIN)/python bench/loop.py
	$(BIN)/python bench/snapshots.py
	$(BIN)/python bench/commit.py

format: $(VENV)/.installed
	$(BIN)/ruff check --fix src tests tools bench examples
	$(BIN)/ruff format src tests tools bench examples

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
