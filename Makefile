# Two commands: `make serve` and `make test`. Both set up what they need, once, and say what they are doing.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help serve test test-clients audit bench lint clean
.DEFAULT_GOAL := help

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

serve: $(VENV)/.serve  ## Set up if need be, and serve on http://127.0.0.1:4100/v1
	@exec $(BIN)/smallfirst serve

test: $(VENV)/.dev  ## Set up if need be, lint, check types and run the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

test-clients: $(VENV)/.clients build/clients/openai2/.ready build/clients/crewai/.ready  ## Set up if need be, and try other people's clients and frameworks on a running gateway
	$(BIN)/pytest -m "clients or not clients" tests/clients --junitxml=build/clients.xml

audit: $(VENV)/.dev build/audit/.ready  ## Look up known vulnerabilities of what is installed, and write build/sbom.cdx.json
	$(BIN)/python deploy/audit.py $(VENV) build/audit

bench: $(VENV)/.dev  ## Measure what a routing decision costs, and the gateway beside others (20 minutes)
	$(BIN)/smallfirst bench decision
	$(BIN)/smallfirst bench gateway --write docs/performance.md

lint: $(VENV)/.dev  ## Format and lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis router/scoring/arithmetic/compiled.c \
	  router/scoring/arithmetic/compiled.*.so

# The stamps hold as long as neither the list of dependencies nor what is compiled changes.
COMPILED := $(wildcard router/scoring/arithmetic/*.pyx)

$(VENV)/.serve: pyproject.toml deploy/setup.sh $(COMPILED)
	@deploy/setup.sh $(PYTHON) $(VENV) local
	@touch $@

$(VENV)/.dev: pyproject.toml deploy/setup.sh $(COMPILED)
	@deploy/setup.sh $(PYTHON) $(VENV) local,langchain,otel,postgres,redis-server,train,dev
	@touch $@ $(VENV)/.serve

$(VENV)/.clients: pyproject.toml deploy/setup.sh $(COMPILED)
	@deploy/setup.sh $(PYTHON) $(VENV) local,langchain,otel,postgres,redis-server,train,dev,clients
	@touch $@ $(VENV)/.dev $(VENV)/.serve

# What audits, in an environment of its own: it is no part of what it looks through.
build/audit/.ready: deploy/audit.txt
	@echo "== pip-audit and cyclonedx-bom in $(@D)"
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check --requirement $<
	@touch $@

# Clients that cannot be installed beside this project's tests. They talk HTTP, so another environment will do.
build/clients/%/.ready: tests/clients/older/%.txt
	@echo "== clients of $< in $(@D)"
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check --requirement $<
	@touch $@
