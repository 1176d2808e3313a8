# make demo       the whole pipeline on the model and data that come with ILA (9 to 24 minutes on two cores, and 2 to 5 to install)
# make test       what is checked while you work: about 4 minutes on two cores
# make test-all   everything that is checked before a change lands: about 18 minutes
# make servers, servers-down   PostgreSQL, MLflow and Prefect as processes: docs/TEAMS.md

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

QUICK := not slow and not servers and not browser

TEAMS ?= main:4200
GPUS ?= 1

.PHONY: demo test test-all test-servers lint servers servers-down clean

demo: $(INSTALLED)
	$(BIN)/ila run demo

test: $(INSTALLED) lint
	$(PYTEST)

# Lint, then four runs of pytest, each after the one before: core, fast, slow, servers. What one of
# them computed for all its tests, the next ones only read.
test-all: $(INSTALLED) lint
	@ILA_TESTS_SHARED=$$(mktemp -d); export ILA_TESTS_SHARED; trap 'rm -rf "$$ILA_TESTS_SHARED"' EXIT; set -ex; \
	$(PYTEST) -m "$(QUICK)" tests/ila_core; \
	$(PYTEST) -m "$(QUICK)" tests --ignore=tests/ila_core; \
	$(PYTEST) -m "slow and not servers and not browser"; \
	$(PYTEST) -m "servers and not browser"

# All that needs real servers, on PostgreSQL, a browser included where there is one.
test-servers: $(INSTALLED)
	$(BIN)/python -m pytest -m "servers or browser" --servers-on postgresql

servers: $(INSTALLED)
	$(BIN)/ila servers up $(addprefix --prefect ,$(TEAMS)) --gpus $(GPUS) --deployments deployments

servers-down: $(INSTALLED)
	$(BIN)/ila servers down

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[servers,dev]'
	touch $@

clean:
	rm -rf $(VENV) .ila .mypy_cache .ruff_cache .pytest_cache
