# A fresh clone needs git, make and python3 with venv; `make test` installs the rest (see scripts/install-servers).

# These must be available, or the tests fail; empty: a missing server skips its tests.
PREFIQ_REQUIRE ?= postgresql,mariadb
# How many tests run at once, each worker with servers of its own. More than there are cores: many of them wait.
WORKERS ?= 4
# Bytecode is kept whatever the environment says: each process that a test starts would compile the package anew.
PYTEST := PYTHONDONTWRITEBYTECODE= PREFIQ_REQUIRE="$(PREFIQ_REQUIRE)" .venv/bin/python -m pytest
# Beside the tests; not spelled out there, or make -n would run them.
LINT_AND_TYPES := $(MAKE) --no-print-directory --keep-going lint types
# More arguments for pytest: make test ARGS="-k transaction -x"
ARGS ?=

BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run-sync-example run-async-example test check integration servers lint types clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv: .venv/.runtime ## Make the virtual environment, for the examples only

.venv/.runtime: pyproject.toml
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    test -x $(BIN)/python || "$$python" -m venv .venv || exit 1; found=yes; break; \
	  fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No Python >= 3.11 with venv found: apt-get install python3-venv, or make PYTHON=/path/to/python3" >&2; exit 1; \
	fi
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -e '.[all]'
	@touch $@

.venv/.development: .venv/.runtime
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

run-sync-example: .venv/.runtime ## Run the order ledger, sync, on embedded SQLite (DB_URL: elsewhere)
	$(BIN)/python examples/ledger_sync.py

run-async-example: .venv/.runtime ## Run the order ledger, async, on embedded SQLite (DB_URL: elsewhere)
	$(BIN)/python examples/ledger_async.py

# Style and types are checked beside the tests, which often wait. What they say stands last, and at once if it is bad.
test: .venv/.development servers ## Run everything: lint, types and all tests on real servers
	@log=$$(mktemp) && trap 'rm -f "$$log"' EXIT; \
	{ $(LINT_AND_TYPES) >"$$log" 2>&1 || { cat "$$log" >&2; exit 1; }; } & checks=$$!; \
	$(PYTEST) -n $(WORKERS) --dist worksteal $(ARGS); tests=$$?; \
	wait $$checks; checked=$$?; cat "$$log"; \
	if [ $$checked -ne 0 ]; then echo "make test: lint or types failed, see above" >&2; fi; \
	if [ $$tests -ne 0 ]; then echo "make test: the tests failed, see above" >&2; fi; \
	exit $$((tests || checked))

check: .venv/.development lint types ## Run what needs no server, in under a minute: lint, types, unit tests
	$(BIN)/python -m pytest tests/unit -m "not integration" $(ARGS)

integration: .venv/.development servers ## Run {sqlite, postgresql, mariadb} x {sync, async} (all Pythons: nox -s integration)
	$(PYTEST) -m integration -n $(WORKERS) --dist worksteal $(ARGS)

servers: ## Install the PostgreSQL and MariaDB that tests need, or say how
	@scripts/install-servers "$(PREFIQ_REQUIRE)"
	@scripts/install-patroni || true # likewise
	@scripts/install-mongodb-stand-in || true # it says why; its tests are then skipped, each with the reason

lint: .venv/.development ## Check style and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.development ## Check types
	$(BIN)/mypy

clean: ## Remove what these commands made
	rm -rf .venv .nox .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
