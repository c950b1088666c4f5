# `make` alone lists the targets. Recipes run from the repository's root, in .venv; nothing else is touched.
PORT ?= 8888
LAB_FLAGS ?=
UNIT ?=
LOCK_FLAGS ?=
# The environment of `make test`: `dev` is the lock; `newest` is what pyproject.toml admits today.
SETUP ?= dev
EXPERIMENTS ?=
BENCH_FLAGS ?=
PY := .venv/bin/python

# Most of a test run is XLA compiling. What one run compiled, the next one reads: a third of the time. The library's
# tests run small arrays once, so their code is compiled without the optimizations that would take longer than they save.
COMPILED := JAX_COMPILATION_CACHE_DIR='$(CURDIR)/.cache/jax' JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
  JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1

# A hung kernel must not hang CI. GNU timeout is not on every machine; there the cells' own limit has to do.
OUTER_LIMIT := $(if $(shell command -v timeout),timeout 2400)

.PHONY: help setup lab dev notebooks experiments test lint types unit floors nbval grade check test-grader site test-browser runtimes test-peers bench format lock clean

help:        ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup:       ## the students' environment: .venv from requirements.lock, checked by hash
	@sh tools/setup.sh student

lab: setup   ## set up if need be, then JupyterLab on lecture 01 (PORT=8888)
	@$(PY) tools/lab.py $(PORT) $(LAB_FLAGS)

dev:         ## the developers' environment: the same pins, and what `make test` needs
	@sh tools/setup.sh $(SETUP)

notebooks: dev   ## source/*.py to executed notebooks (UNIT=01 for one unit)
	@$(PY) -m tools.notebooks build $(UNIT)

experiments: dev   ## compute what is missing of the runs that lectures load (EXPERIMENTS="07.name" for one; hours)
	@$(COMPILED) JAX_PLATFORMS=cpu $(PY) -m course_lib.experiments $(EXPERIMENTS)

test: lint types unit nbval   ## all that students, instructors and lectures rest on

lint: dev    ## formatter and linter; changes nothing
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m ruff check --quiet .

types: dev   ## type check
	@$(PY) -m mypy

# The library's upper floors, which units 06 to 11 use, and what stands beside the course: CI tests them after `make test`,
# which has twelve minutes.
FLOORS := $(addprefix tests/library/,$(addprefix optimizers/test_,adahessian.py entropy_sgd.py gsam.py kfac.py sam.py) \
  curvature/test_spectrum.py curvature/test_kronecker.py test_networks.py test_sharpness.py test_landscapes.py \
  test_sharding.py test_training.py test_two_processes.py test_cifar.py) tests/benchmarks
# Tests with a command of their own, below.
BESIDE := tests/grader/more tests/peers tests/browser/test_site.py tests/browser/test_jupyterlab.py
PYTEST = $(COMPILED) JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PY) -m pytest -q -n 2 --dist loadfile

unit: dev    ## pytest on tests/, less the floors
	@$(PYTEST) $(addprefix --ignore=,$(FLOORS) $(BESIDE)) tests

floors: dev  ## pytest on the library's upper floors and the benchmarks
	@$(PYTEST) $(FLOORS)

# Every cell runs. Outputs are compared where a cell has the tag nbval-check-output: other outputs (figures, times)
# differ between machines. Warnings of the kernel client are not the course's, so here they are no errors.
nbval: dev   ## run every lecture and solution, compare the marked outputs
	@$(COMPILED) JAX_DEBUG_KEY_REUSE=1 $(OUTER_LIMIT) $(PY) -m pytest --nbval-lax --nbval-cell-timeout=120 -W default \
	  -p no:cacheprovider -n 2 --dist loadscope lectures/*.ipynb solutions/*/*.ipynb

site: dev    ## the course as web pages, in site/ (needs npm; SITE_SOLUTIONS=1 folds the solutions in)
	@JAX_PLATFORMS=cpu $(PY) -m tools.site

test-browser: site   ## pages, figures and JupyterLab in Chromium, axe-core on every page
	@JAX_PLATFORMS=cpu $(PY) -m pytest -q -n 2 --dist loadfile tests/browser

runtimes: dev   ## measure seconds and peak memory of every notebook into docs/RUNS.csv
	@JAX_PLATFORMS=cpu $(PY) -m tools.runtimes

OUT ?= $(SUBMISSIONS)-graded
GRADE_FLAGS ?=
grade: dev   ## grade a class: UNIT=01 SUBMISSIONS=folder-or-zip OUT=folder
	@$(PY) -m grader grade '$(UNIT)' '$(SUBMISSIONS)' --out '$(OUT)' $(GRADE_FLAGS)

check: setup ## a student's notebook, run as the grader would run it: NB=path
	@$(PY) -m grader precheck '$(NB)'

test-grader: dev   ## the rest of the grader's tests: controls, kill -9, cluster, nbgrader, soak
	@$(PYTEST) tests/grader/more

PEERS := .venv-peers/bin/python
.venv-peers/peers.stamp: requirements-dev.lock pyproject.toml
	@echo "Setting up .venv-peers (some minutes; torch is large) ..."
	@rm -rf .venv-peers
	@$(PY) -m venv .venv-peers
	@$(PEERS) -m pip install --quiet --require-hashes --only-binary :all: -r requirements-dev.lock
	@$(PEERS) -m pip install --quiet --no-build-isolation -e '.[peers]'
	@touch $@

test-peers: dev .venv-peers/peers.stamp   ## course_lib beside curvlinops, nngeometry, BackPACK, PyHessian and torch's optimizers
	@$(COMPILED) JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PEERS) -m pytest -q tests/peers

bench: dev   ## what it costs: table, JSON and plot in build/benchmarks (peers too where .venv-peers is; BENCH_FLAGS=--quick)
	@$(if $(wildcard .venv-peers/peers.stamp),$(PEERS),$(PY)) -m benchmarks $(BENCH_FLAGS)

format: dev  ## let ruff rewrite the Python files
	@$(PY) -m ruff format --quiet .
	@$(PY) -m ruff check --fix --quiet .

# Pins stay as they are where pyproject.toml still admits them; LOCK_FLAGS=--upgrade takes the newest of all.
COMPILE = .venv/bin/uv pip compile --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
  --no-emit-index-url --no-header --quiet $(LOCK_FLAGS) pyproject.toml
lock: dev    ## pyproject.toml to requirements.lock and requirements-dev.lock (LOCK_FLAGS=--upgrade)
	@$(COMPILE) -o requirements.lock
	@$(COMPILE) --extra dev --extra site -c requirements.lock -o requirements-dev.lock

clean:       ## remove .venv and every cache
	@rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +
