# `make up` runs EagleEye on this machine; `make test` runs every check. Both set up what they need, once.
PYTHON ?= python3
# Processes that share the tests. Most tests wait for servers, so one more than a small machine has processors.
WORKERS ?= 3
BIN := .venv/bin

.PHONY: up test lint bench bench-quick chaos screenshots docs format clean help
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: .venv/.done .venv-triton/.done  ## export the shipped model, start Triton and the gateway (Ctrl-C stops both)
	@$(BIN)/eagleeye up

test: lint .venv-triton/.done .venv-kserve/.done .venv-ensemble/.done .venv-bentoml/.done  ## lint, types, and every test against a real Triton
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: .venv/.dev  ## ruff's rules and format, mypy's strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.dev .venv-triton/.done .venv-ensemble/.done .venv-bentoml/.done  ## each stage, and the whole path beside limit and other servers; twelve quiet minutes
	@$(BIN)/python -m loadtest.bench

bench-quick: .venv/.dev .venv-triton/.done  ## the same in less than a minute, to see what a change does
	@$(BIN)/python -m loadtest.bench --quick

chaos: .venv/.dev .venv-triton/.done  ## what a fleet does while parts of it fail; needs haproxy and a quiet machine
	$(BIN)/python -m loadtest.chaos all

screenshots: .venv/.dev  ## the README's pictures of the console; needs `make up` in another terminal, and chromium
	$(BIN)/python -m tests.console.screenshots

docs: .venv/.dev  ## the documentation as a site in site/, with the references that are made from the code
	@$(BIN)/python -m docs.generate

format: .venv/.dev  ## let ruff format the code and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove environments, caches, exported models and logs
	rm -rf .venv .venv-triton .venv-kserve .venv-ensemble .venv-bentoml .eagleeye .mypy_cache .pytest_cache .ruff_cache .hypothesis site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find model_repository -mindepth 1 -not -name README.md -delete

# The application's environment and Triton's are apart: see triton_runtime/requirements.txt.
.venv/.done: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON) here" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "EagleEye needs Python 3.11, 3.12 or 3.13; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "Python's venv is missing; install it with: sudo apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[gateway,export,detect,evaluate]'
	@touch $@

.venv/.dev: .venv/.done
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[gateway,tracing,export,client,supervision,detect,evaluate,gate,load,loadtest,standin,baselines,docs,dev]'
	@touch $@

.venv-triton/.done: triton_runtime/requirements.txt constraints.txt .venv/.done
	@[ "$$(uname -sm)" = "Linux x86_64" ] \
		|| { echo "a local Triton needs Linux on x86-64; elsewhere start NVIDIA's Triton container with the model repository," \
			"and '$(BIN)/eagleeye gateway --triton-url HOST:PORT' in front of it" >&2; exit 1; }
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/pip install --disable-pip-version-check --no-deps -c constraints.txt -r triton_runtime/requirements.txt
	@touch $@

# A foreign client that the tests hold the gateway against; it brings a web server, a Kubernetes client and pandas along.
.venv-kserve/.done: constraints.txt .venv/.done
	$(PYTHON) -m venv .venv-kserve
	.venv-kserve/bin/pip install --disable-pip-version-check -c constraints.txt kserve
	@touch $@

# What two of the servers beside ours need, for `make bench` and a test; both go without one that can't be installed.
.venv-ensemble/.done: loadtest/baselines/triton_ensemble/packages.txt .venv/.done
.venv-bentoml/.done: loadtest/baselines/bentoml.txt .venv/.done
.venv-ensemble/.done .venv-bentoml/.done:
	@rm -f $@
	$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --disable-pip-version-check --no-deps --only-binary :all: -r $< && touch $@ \
		|| echo "$(@D) could not be made; the server that needs it is left out" >&2
