# make demo   the whole pipeline on the model and data that come with ILA (6 minutes on two cores, and 2 to install)
# make test   everything that is checked before a change lands (9 minutes on two cores, and 2 to install)

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(INSTALLED)
	$(BIN)/ila run demo

test: $(INSTALLED) lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[quant,eval,dev]'
	touch $@

clean:
	rm -rf $(VENV) .ila .mypy_cache .ruff_cache .pytest_cache
