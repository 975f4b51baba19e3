# `make quickstart` and `make test` do their own set-up: nothing has to be run before them.
# BAR=P1 picks one bar of `bench` or `faults`, or one study (BAR=A4); without it all bars run.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.docendo-stamp
MODEL := smollm2-135m-instruct
PYTEST_ARGS ?=
# Tests of different files run side by side; each process computes with one thread.
JOBS ?= 2
BENCH_ARGS ?=
BAR ?=

.PHONY: help setup quickstart models test lint links format wheel bench faults statistics recipes recipes-page clean

help:
	@echo 'make setup             .venv with everything in it (done once; again if the pins change)'
	@echo 'make quickstart        the main job: teach a small model, measure before and after'
	@echo 'make test              all tests (PYTEST_ARGS="-m \"not slow\"" for the quick ones)'
	@echo 'make lint              ruff, mypy --strict, import-linter'
	@echo 'make format            let ruff rewrite what it can'
	@echo 'make wheel             build the wheel into dist/'
	@echo 'make bench BAR=P1      measured comparisons; writes docs/benchmarks.md'
	@echo 'make faults BAR=R1     long fault runs; writes docs/reliability.md'
	@echo 'make recipes           all recipes at SCALE=tiny; make recipes-page renews docs/recipes.md'
	@echo 'make statistics        intervals and tests against simulations; writes docs/statistics.md'

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "docendo needs Python 3.11 or newer, not %d.%d; name one with: make setup PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	@echo 'installing docendo and its libraries into $(VENV): some minutes the first time'
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: setup
	$(BIN)/docendo quickstart --resume

# Tests may not touch the network, so the model that they use is fetched before them.
models: setup
	$(BIN)/docendo models pull $(MODEL)

# `pytest`, not `python -m pytest`: the latter puts the repository root on sys.path, where a bare
# `import agents` would work and load every module a second time.
test: setup models
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile $(PYTEST_ARGS)

# mypy and import-linter run inside .typing, where the package has the shape it is installed in.
lint: setup links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd .typing && $(abspath $(BIN))/mypy --config-file ../pyproject.toml
	cd .typing && PYTHONPATH=. $(abspath $(BIN))/lint-imports --no-logo --config ../pyproject.toml

# Renews .typing/docendo: one link for each room and for each part of docendo/.
links:
	@mkdir -p .typing/docendo && find .typing/docendo -type l -delete
	@for part in docendo/*.py docendo/py.typed docendo/cli agents distill evals graphs memory; do \
	  ln -s ../../$$part .typing/docendo/$$(basename $$part); done

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: setup
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist .
	@rm -rf build

# Measured comparisons and studies: keeps what has finished in benchmarks/results, renews docs/benchmarks.md and
# docs/studies.md.
# BENCH_ARGS=--quick only tries whether a bar runs.
bench: setup models
	$(BIN)/python benchmarks/run.py $(BAR) $(BENCH_ARGS)

# The long forms of the bars in tests/faults: all of them run, whatever fails; results are kept in
# tests/faults/results and docs/reliability.md is renewed from them.
faults: setup models
	$(BIN)/python tests/faults/run.py $(BAR)

# Coverage of intervals and errors of tests in simulations: some minutes if their code has changed, and what has
# finished is kept when a run is interrupted. docs/statistics.md is renewed from benchmarks/results/statistics.json.
statistics: setup
	$(BIN)/python benchmarks/check_statistics.py

# All recipes at a scale: tiny asks whether they run, laptop takes hours and is what docs/recipes.md reports.
SCALE ?= tiny
recipes: setup models
	$(BIN)/docendo recipes run --all --scale $(SCALE) --resume $(if $(filter-out tiny,$(SCALE)),--record evals/results)

# docs/recipes.md from the registry and evals/results.
recipes-page: setup
	$(BIN)/docendo recipes page --output docs/recipes.md

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
