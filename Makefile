# `make demo` trains the first operators, `make test` runs every check. Both make .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUTPUT ?= runs/demo
# processes that test, of some 2 GB each
JOBS ?= 2

.PHONY: help demo test lint check bench clean

help:
	@echo "make demo   train UKNO and FKNO beside their baselines (five minutes on two cores), write a report"
	@echo "make test   run the tests and the documentation's examples"
	@echo "make lint   style, types and the import contract"
	@echo "make check  lint and test, as continuous integration runs them"
	@echo "make bench  time the scan on this machine, beside what else is installed"
	@echo "make clean  remove the virtual environment and caches"

# The stamp is newer than pyproject.toml and constraints.txt when the environment matches them.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python tests/mend_torchvision.py
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/kinn reproduce demo --output $(DEMO_OUTPUT)

test: $(VENV)/.installed
	$(BIN)/python -m pytest --quiet --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

check: lint test

bench: $(VENV)/.installed
	$(BIN)/kinn bench

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache
