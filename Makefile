# Two commands: `make demo` and `make test`. Each sets up what it needs; the second run starts in seconds.
# PYTHON chooses the interpreter (3.11, 3.12 or 3.13), VENV where its environment goes.

SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := $(VENV)/bin
SOURCE ?= simulator
DATA ?=
EVENTS ?=
SERVE ?=

.PHONY: demo test test-unit test-all lint types format setup setup-dev lock smoke bench-pipeline bench-retrieval bench-policy bench-serving bench-journeys airflow clean help

help:
	@echo "make demo                 clickstream to a served, explained banner slate (SERVE=1 keeps the service)"
	@echo "make demo SOURCE=completejourney DATA=DIR    the same on a real data set"
	@echo "make test                 lint, types and all tests but the slow ones"
	@echo "make test-all             the slow ones too"
	@echo "make test-unit            unit tests alone, under a minute"
	@echo "make smoke PYTHON=python3.12 VENV=.venv-3.12   the whole demo at its smallest size on another Python"
	@echo "make airflow              Airflow's UI on this installation's DAGs"
	@echo "make bench-pipeline DATA=DIR   load, build and materialise at volume, against a plain scan; last line JSON"
	@echo "make bench-retrieval DATA=DIR  the retrieval models on data with known answers; last line JSON"
	@echo "make bench-policy DATA=DIR     what the policy earns in simulated shops, and what the gate refuses; last line JSON"
	@echo "make bench-serving             what the service does at most, and at worst when things break; last line JSON"
	@echo "make bench-journeys DATA=DIR   next page, value and notifications against known answers; last line JSON"
	@echo "make lock                 resolve the dependencies anew"

setup: $(VENV)/.platform
setup-dev: $(VENV)/.dev

$(VENV)/.uv: requirements/uv.txt
	@test -n "$(PYTHON)" || { echo "error: no Python found; install Python 3.11, 3.12 or 3.13" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "error: Marquee needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is %d.%d; choose one with make PYTHON=python3.11" % v)'
	@test "$$(uname -sm)" = "Linux x86_64" || { echo "error: Marquee's locks are for Linux on x86-64, and this is $$(uname -sm)" >&2; exit 1; }
	@echo "setting up $(VENV) (about 2.5 GB, once)"
	@"$(PYTHON)" -m venv "$(VENV)"
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

# The lock is complete, so nothing is resolved: --no-deps. Compiled bytecode makes every later start 3-5 times faster.
$(VENV)/.platform: requirements/platform.txt pyproject.toml $(VENV)/.uv
	@"$(BIN)/uv" pip install --quiet --python "$(BIN)/python" --require-hashes --no-deps --compile-bytecode -r requirements/platform.txt
	@"$(BIN)/uv" pip install --quiet --python "$(BIN)/python" --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.platform
	@"$(BIN)/uv" pip install --quiet --python "$(BIN)/python" --require-hashes --no-deps --compile-bytecode -r requirements/dev.txt
	@touch $@

demo: setup
	@"$(BIN)/marquee" demo --source "$(SOURCE)" $(if $(DATA),--path "$(DATA)") $(if $(EVENTS),--events $(EVENTS)) $(if $(SERVE),--serve)

smoke: setup
	@"$(BIN)/marquee" demo --events 60000 --home "$(VENV)-demo"

test: setup-dev lint types
	@"$(BIN)/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" --durations=40 --durations-min=5

test-unit: setup-dev
	@"$(BIN)/python" -m pytest tests/unit

test-all: setup-dev lint types
	@"$(BIN)/python" -m pytest -n 2 --dist loadfile

lint: setup-dev
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .
	@"$(BIN)/ruff" check --select AIR3 dags
	@"$(BIN)/yamllint" --strict -c docker/yamllint.yml docker dbt_project .pre-commit-config.yaml

types: setup-dev
	@"$(BIN)/mypy"

format: setup-dev
	@"$(BIN)/ruff" check --fix .
	@"$(BIN)/ruff" format .

airflow: setup
	@"$(BIN)/marquee" airflow standalone

bench-policy: setup-dev
	@"$(BIN)/python" -m benchmarks.policy $(if $(DATA),--data "$(DATA)") $(BENCH)

bench-serving: setup-dev
	@"$(BIN)/python" -m benchmarks.serving $(BENCH)

bench-journeys: setup-dev
	@"$(BIN)/python" -m benchmarks.journeys $(if $(DATA),--data "$(DATA)") $(BENCH)

bench-retrieval: setup-dev
	@"$(BIN)/python" -m benchmarks.retrieval $(if $(DATA),--data "$(DATA)") $(BENCH)

bench-pipeline: setup-dev
	@"$(BIN)/python" -m benchmarks.pipeline $(if $(DATA),--data "$(DATA)") $(BENCH)

# The largest lock first: it binds the smaller ones, so that one version serves everywhere.
LOCK = "$(BIN)/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url
lock: $(VENV)/.uv
	@$(LOCK) pyproject.toml --extra platform --extra spark --group dev --output-file requirements/dev.txt
	@$(LOCK) pyproject.toml --extra platform --extra spark --constraint requirements/dev.txt --output-file requirements/spark.txt
	@$(LOCK) pyproject.toml --extra platform --constraint requirements/dev.txt --output-file requirements/platform.txt
	@$(LOCK) pyproject.toml --extra serving --constraint requirements/dev.txt --output-file requirements/serving.txt

clean:
	@rm -rf "$(VENV)" .marquee .marquee-demo
