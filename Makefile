# Every target makes .venv and installs what it needs: nothing has to be installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2

.PHONY: demo test verify bench lint install clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make demo     fit ten families on the same data and open their report"
	@echo "make test     the test suite (under 12 minutes on two cores)"
	@echo "make verify   the long checks: slow tests and deliberate faults that must be noticed"
	@echo "make bench    ours beside the peers, as ratios"
	@echo "make lint     ruff and mypy"

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# the pinned torch comes first, so that nothing else pulls another build
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,lint,bench]'
	# a peer of the tests, without the training frameworks that it names as its own needs
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps torchcfm
	touch $@

install: $(VENV)/.installed

demo: install
	rm -rf runs/demo
	$(BIN)/pushforward compare digits independent gaussian nice gmm vae rectified-flow made wgan-gp simclr classifier \
		--minutes 0.4 --out runs/demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m "not slow"

verify: install
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m slow
	$(BIN)/python tests/mutations.py

bench: install
	$(BIN)/python benchmarks/run.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
