# Everything sets itself up: `make quickstart` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install quickstart test lint format bench docs site clean

help:  ## show this
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

install: $(READY)  ## create the virtual environment in .venv

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "localgrad needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps torchvision
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: $(READY)  ## seven rules on the UCI digits: a table and runs/quickstart/compare.html
	$(BIN)/localgrad compare --config recipes/quickstart.yaml --resume

test: lint  ## types, style, tests, doctests
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python benchmarks/tables.py --check

format: $(READY)  ## put the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## step time, memory and FLOPs of every rule against BP on this machine
	$(BIN)/python benchmarks/cpu/step.py --case resnet32 --json benchmarks/results/step-resnet32-cpu.json

docs: $(READY)  ## write the tables in README and docs anew from benchmarks/results, draw the reach of rules
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/reach_pictures.py

site: $(READY)  ## build the documentation's site into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache
