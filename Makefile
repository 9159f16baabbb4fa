# `make` lists the targets. Everything installs itself: nothing but Python 3.11+ and a package index is needed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.installed

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 24

.PHONY: install
install: $(STAMP) ## Make .venv with everything pinned in requirements.lock, and compile the protos

$(STAMP): requirements.lock pyproject.toml hatch_build.py $(shell find protos -name '*.proto')
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: protos
protos: install ## Compile the protos again
	$(BIN)/python hatch_build.py

.PHONY: lock
lock: ## Pin the newest versions in requirements.lock (needs uv: it is in .venv)
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--extra dev pyproject.toml -o requirements.lock

.PHONY: up
up: install ## Run the whole engine in the foreground (Ctrl-C stops it)
	$(BIN)/trade-engine up

.PHONY: demo
demo: install ## Run the engine in a temporary folder, trade, settle, audit
	$(BIN)/trade-engine demo

.PHONY: test
test: install ## Run all tests, on real PostgreSQL, Redis and RabbitMQ (started where they do not answer)
	$(BIN)/pytest tests

.PHONY: test-unit
test-unit: install ## Run the tests that need no server
	$(BIN)/pytest tests/unit tests/property tests/house

.PHONY: test-integration
test-integration: install ## Run the tests of single services on real servers
	$(BIN)/pytest tests/integration

.PHONY: test-e2e
test-e2e: install ## Run the tests of the whole engine
	$(BIN)/pytest tests/e2e

.PHONY: test-coverage
test-coverage: install ## Run all tests and report the lines they reach
	$(BIN)/pytest tests --cov --cov-report=term

.PHONY: check
check: lint types imports protos-lint test-unit ## Everything that needs no server: seconds

.PHONY: lint
lint: install ## Lint and check the format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: fmt
fmt: install ## Format, and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: install ## Check types (mypy --strict)
	$(BIN)/mypy

.PHONY: imports
imports: install ## Check the import contracts
	$(BIN)/lint-imports

.PHONY: protos-lint
protos-lint: install ## Lint the protos (buf)
	$(BIN)/buf lint

.PHONY: clean
clean: ## Remove what was built and cached; leaves var/, where `make up` keeps its data
	rm -rf $(VENV) gen dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
