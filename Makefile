# Each target sets up what it needs, in .concord/ and nowhere else, and does nothing twice.
# Needs Python 3.11+, a JDK 17+ and Maven. Another Python than the first found: make test PYTHON=/path/to/python3

HOME_FOLDER := .concord
VENV := $(HOME_FOLDER)/venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
PLOTTING := $(VENV)/.installed-bench
STACK := $(HOME_FOLDER)/kafka/.prepared
AT_ONCE := 2 # files of tests; each process has a Kafka and two PostgreSQL servers of its own
CODE := schemas connectors streams console examples bench tests

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-tryton test chaos parity bench lint format clean tools
.SILENT:

help: ## this list
	awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) $(STACK) ## virtual environment, Kafka and PostgreSQL

demo: $(INSTALLED) $(STACK) ## two databases kept in agreement, live for a minute, and the proof that they agree
	$(PY) -m examples.reference.demo $(ARGS)

demo-tryton: $(INSTALLED) $(STACK) ## the same with a real ERP, Tryton 8.0
	$(PY) -m examples.tryton.demo $(ARGS)

test: $(INSTALLED) $(STACK) ## all tests; some of them: make test ARGS="tests/stack -k port"; one after the other: AT_ONCE=0
	$(PY) -m pytest -n $(AT_ONCE) --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: $(INSTALLED) $(STACK) ## the pipeline under faults drawn from a seed, judged from outside: make chaos SEED=1 RUNS=1 MINUTES=2 FAULTS=40 REPORT=docs/chaos.md; EARLIER=docs/chaos.json keeps the runs that are there
	$(PY) -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(RUNS),--runs $(RUNS)) $(if $(MINUTES),--minutes $(MINUTES)) \
	  $(if $(FAULTS),--faults $(FAULTS)) $(if $(REPORT),--report $(REPORT)) $(if $(EARLIER),--earlier $(EARLIER)) $(ARGS)

parity: $(INSTALLED) $(STACK) ## our source and real Debezium on one database, compared event by event: writes docs/debezium-parity.md
	$(PY) -m tests.parity $(ARGS)

bench: $(PLOTTING) $(STACK) ## Concord beside Debezium, logical replication and stock Faust, in one run: writes docs/bench.md; make bench ARGS=--help
	$(PY) -m bench $(ARGS)

lint: $(INSTALLED) ## format, style, types and who may import whom
	$(VENV)/bin/ruff format --check $(CODE)
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/mypy schemas connectors streams console examples bench
	$(VENV)/bin/lint-imports

format: $(INSTALLED) ## as ruff likes it
	$(VENV)/bin/ruff format $(CODE)
	$(VENV)/bin/ruff check --fix $(CODE)

clean: ## stop what runs, leave nothing behind
	if [ -x $(PY) ] && $(PY) -c 'import psutil' 2>/dev/null; then $(PY) -m console.stack clean $(HOME_FOLDER); fi
	rm -rf $(HOME_FOLDER) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Ask for what we cannot bring ourselves before anything else takes time.
tools:
	[ -n "$$JAVA_HOME" ] || command -v java >/dev/null || { echo "no java in PATH: install a JDK, 17 or newer (Debian: openjdk-17-jdk; macOS: brew install openjdk)" >&2; exit 1; }
	command -v mvn >/dev/null || [ -f $(STACK) ] || { echo "no mvn in PATH: install Maven (Debian: maven; macOS: brew install maven)" >&2; exit 1; }

# A virtual environment whose Python is gone (an upgrade took it away) is made again; one that works is used, whoever made it.
$(INSTALLED): pyproject.toml | tools
	if ! $(PY) -c '' 2>/dev/null; then \
	  python=$$(for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	    if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$python; break; fi; done); \
	  [ -n "$$python" ] || { echo "no Python 3.11 or newer (with venv) in PATH: install one (Debian: python3-venv), or say make PYTHON=/path/to/python3" >&2; exit 1; }; \
	  echo "virtual environment: $$($$python --version) in $(VENV)"; \
	  $$python -m venv --clear $(VENV); \
	fi
	echo "installing what pyproject.toml names"
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(PLOTTING): $(INSTALLED)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

$(STACK): console/stack/pom.xml $(INSTALLED) | tools
	$(PY) -m console.stack prepare $(HOME_FOLDER)
	touch $@
