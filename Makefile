# `make` lists the targets. Everything installs itself: nothing but Python 3.11+ and a package index is needed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.installed
COMPILED := $(VENV)/.compiled
WORKERS ?= 3# test files at a time, each worker with an engine of its own

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  \1\t\2/' | expand -t 24

.PHONY: install
install: $(STAMP) $(COMPILED) ## Make .venv with everything pinned in requirements.lock, compile protos and core
	@$(BIN)/python -m compileall -q libs services cli gen # processes start faster, also where PYTHONDONTWRITEBYTECODE is set

$(STAMP): requirements.lock pyproject.toml hatch_build.py $(shell find protos -name '*.proto')
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is %d.%d; 3.11 or newer is needed: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(COMPILED): $(STAMP) cli/compiling.py libs/compiled.py libs/money.py $(wildcard services/*/core/*.py)
	$(BIN)/python -m cli.compiling
	@touch $@

.PHONY: protos
protos: install ## Compile the protos again
	$(BIN)/python hatch_build.py

.PHONY: definitions
definitions: install ## Write deploy/rabbitmq/definitions.json from the code
	$(BIN)/python -m cli.definitions

.PHONY: configuration
configuration: install ## Write docs/configuration.md and config/config.example.yaml from the code
	$(BIN)/python -m cli.configuration

.PHONY: openapi
openapi: install ## Write docs/openapi.json and docs/asyncapi.json from the protos
	$(BIN)/python -m cli.openapi

.PHONY: dashboards
dashboards: install ## Write the Grafana dashboard from the code
	$(BIN)/python -m cli.dashboards

.PHONY: lock
lock: ## Pin the newest versions in requirements.lock (needs uv: it is in .venv)
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--extra dev --extra embedded pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--constraint requirements.lock pyproject.toml -o requirements-runtime.lock

.PHONY: up
up: install ## Run the whole engine in the foreground (Ctrl-C stops it)
	$(BIN)/trade-engine up

.PHONY: run
run: up ## The same as up

.PHONY: down
down: install ## Stop the engine that runs here
	$(BIN)/trade-engine down

.PHONY: ps
ps: health ## The same as health

.PHONY: logs
logs: install ## Follow the logs of the engine that runs here; logs-wallet and so on: of one service
	$(BIN)/trade-engine logs

logs-%: install
	$(BIN)/trade-engine logs $*

.PHONY: status
status: install ## How the engine that runs here is: services, settlement, schema
	$(BIN)/trade-engine health && $(BIN)/trade-engine settlement status && $(BIN)/trade-engine migrate status

.PHONY: version
version: install ## The engine's version
	$(BIN)/trade-engine --version

.PHONY: migrate
migrate: install ## Apply every migration that is missing
	$(BIN)/trade-engine migrate up

.PHONY: migrate-revert
migrate-revert: install ## Take back the last migration, with its data (asks)
	$(BIN)/trade-engine migrate down

.PHONY: migrate-show
migrate-show: install ## Tell which migrations are applied
	$(BIN)/trade-engine migrate status

.PHONY: schema-verify
schema-verify: install ## Check the schema of the engine that runs here: migrations, partitions, sizes
	scripts/verify-schema.sh

.PHONY: db-shell
db-shell: install ## Open psql on the database of the engine that runs here
	$(BIN)/trade-engine db-shell

.PHONY: redis-shell
redis-shell: install ## Open redis-cli on the Redis of the engine that runs here
	$(BIN)/trade-engine redis-shell

.PHONY: rabbitmq-ui
rabbitmq-ui: ## Where RabbitMQ's pages are (compose)
	@echo "http://127.0.0.1:15672 (user and password: RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_PASS of compose.yaml)"

.PHONY: build
build: ## Build the image (docker, podman or buildah; IMAGE=trade-engine)
	scripts/build-image.sh $(or $(IMAGE),trade-engine)

.PHONY: demo
demo: install ## Run the engine in a temporary folder, trade, settle, audit
	$(BIN)/trade-engine demo

.PHONY: test
test: install ## Run all tests, on real PostgreSQL, Redis and RabbitMQ (started where they do not answer)
	$(BIN)/pytest -n $(WORKERS) --dist loadfile tests

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
test-coverage: install ## Run all tests and report the lines they reach, in all processes; fails below 90 %
	PURE_PYTHON=1 $(BIN)/pytest tests --cov --cov-report=term

.PHONY: check
check: lint types imports protos-lint test-unit ## Everything that needs no server: seconds

.PHONY: lint
lint: install ## Lint and check the format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint deploy/Dockerfile

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

.PHONY: drill
drill: install ## See every alert fire: a real Prometheus, and each cause happens (needs Debian's prometheus)
	$(BIN)/pytest tests/e2e/test_alerts_fire.py -m drill

.PHONY: chaos
chaos: install ## Break things under load, round by round, and prove that nothing is lost or doubled (SEED=1 ROUNDS=20 ONLY=pause PAUSE="35 75")
	$(BIN)/python -m tests.chaos --seed $(or $(SEED),1) --rounds $(or $(ROUNDS),20) \
		$(if $(ONLY),--only "$(ONLY)") $(if $(PAUSE),--pause-s $(PAUSE))

.PHONY: campaign-core
campaign-core: install ## One long stream of commands through the engine and the obvious book (COMMANDS=1000000 SEED=1)
	$(BIN)/python -m tests.campaign.core --commands $(or $(COMMANDS),1000000) --seed $(or $(SEED),1)

.PHONY: bench-wallet
bench-wallet: install ## Measure the ledger beside pgbench; writes bench/results/wallet.json (SECONDS_EACH=5)
	$(BIN)/python -m bench.wallet --seconds $(or $(SECONDS_EACH),5)

.PHONY: bench-core
bench-core: install ## Measure the matching core alone; writes bench/results/core.json (MESSAGES=200000)
	$(BIN)/python -m bench.core --messages $(or $(MESSAGES),200000)

.PHONY: bench-settlement
bench-settlement: install ## Measure trades through RabbitMQ into the ledger; writes bench/results/settlement.json
	$(BIN)/python -m bench.settlement

.PHONY: bench
bench: install ## Measure the front door beside an echo server and pgbench; writes bench/results/gateway.json (FULL=1: longer)
	$(BIN)/python -m bench.gateway $(if $(FULL),--full)

.PHONY: load
load: install ## Put load on the engine that runs here (make up): ghz where it is installed, else our generator (ORDERS=20000)
	scripts/load.sh --orders $(or $(ORDERS),20000)

.PHONY: bench-edge
bench-edge: install ## Measure the edge beside a bare application; writes bench/results/edge.json
	$(BIN)/python -m bench.edge

.PHONY: bench-recovery
bench-recovery: install ## Measure a matcher's start after a million commands; writes bench/results/recovery.json
	$(BIN)/python -m bench.recovery --commands $(or $(COMMANDS),1000000)

.PHONY: bench-durable
bench-durable: install ## Measure rows into partitioned tables and confirmed messages; writes bench/results/durable.json
	$(BIN)/python -m bench.durable

.PHONY: bench-subscribers
bench-subscribers: install ## Measure orders/s beside 1,000 subscribers who do not read; writes bench/results/subscribers.json
	$(BIN)/python -m bench.subscribers

.PHONY: bench-audit
bench-audit: install ## Measure an audit; writes bench/results/audit.json (ENTRIES=10000000)
	$(BIN)/python -m bench.audit --entries $(or $(ENTRIES),10000000)

.PHONY: backup
backup: install ## Save the database of the engine that runs here (FILE=backup.dump)
	$(BIN)/trade-engine backup $(or $(FILE),backup.dump)

.PHONY: restore
restore: install ## Bring a saved database back into the new one at TRADE_ENGINE_DATABASE_DSN (FILE=backup.dump)
	$(BIN)/trade-engine restore $(or $(FILE),backup.dump)

.PHONY: health
health: install ## Tell which services of the engine that runs here serve
	$(BIN)/trade-engine health

.PHONY: clean
clean: ## Remove what was built and cached; leaves var/, where `make up` keeps its data
	rm -rf $(VENV) gen dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
