# make run           from nothing to a report: .venv, install, notebooks 00..11 on the generated data
# make test          .venv, install, unit tests, then every notebook and its exercises at smoke size
# make test-browser  the widgets in a real JupyterLab in headless Chromium (skipped aloud where there is none)
# make fuzz          10,000 damaged inputs of every kind; counts them (minutes; `make test` tries fewer)
# make mutants       40 wrong operators put into the core, one at a time: do its tests notice? (minutes)
# make exercises    the solution of every exercise, run in its notebook (smoke size; SIZE=full for the full one, with runs/mini's networks if there)
# make docs          docs/ again from a finished `make run`
# make site          docs/ as a site with search and the API of every module, in build/site
# make test-lowest   the unit tests with the oldest versions that pyproject.toml allows, in an environment of their own
# make install       .venv and the installation alone; CPU=1: PyTorch without CUDA (4 GB less)
# make clean         what was generated here: .venv, caches, the mini data; runs/ and real data stay
#
# PYTHON=/path/to/python picks the interpreter; by default it is the first of a list that is 3.10 or newer and
# has venv and ensurepip (Debian: package python3-venv).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install run test test-units test-notebooks test-browser test-lowest fuzz mutants exercises docs site clean

VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# What installing takes at its peak (9 measured), the downloaded wheels included; 7 GB remain. Without CUDA a third.
DISK_GB := $(if $(CPU),4,10)
# uv knows where PyTorch keeps its builds for processors alone; pip would have to be told.
INSTALL := $(if $(CPU),uv pip install --quiet --torch-backend=cpu,pip install --quiet --disable-pip-version-check)
TEST_HOME := $(CURDIR)/build/test-home
# For test-lowest: the oldest Python of this machine that will do (where none is found, uv fetches a 3.10).
OLDEST = $(shell for minor in 10 11 12 13; do python3.$$minor -c "import sys; print(sys.executable)" 2>/dev/null && break; done)
# One thread per process: the tests' tensors are small and two processes share the machine.
TEST_ENV := TLG_SMOKE=1 OMP_NUM_THREADS=1 MPLBACKEND=agg JUPYTER_PLATFORM_DIRS=1

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	  for name in python3.12 python3.13 python3.11 python3.10 python3 python; do \
	    if "$$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then \
	      python="$$name"; break; \
	    fi; \
	  done; \
	fi; \
	if [ -z "$$python" ]; then \
	  echo "error: no Python 3.10 or newer with venv found: install one, or name it with PYTHON=/path/to/python" >&2; \
	  exit 2; \
	fi; \
	free=$$(df -Pk . | awk 'NR == 2 {print int($$4 / 1048576)}'); \
	if [ "$$free" -lt $(DISK_GB) ]; then \
	  echo "error: $$free GB free in $(CURDIR), the installation takes $(DISK_GB) (PyTorch$(if $(CPU),, and its CUDA libraries; CPU=1 does without)):" \
	    "free some, or clone to another disk" >&2; \
	  exit 2; \
	fi; \
	echo "== making .venv with $$("$$python" --version) ($$(command -v "$$python"))"; \
	"$$python" -m venv --clear $(VENV)
	@echo "== installing tlg_lib and what it needs (once; some minutes, PyTorch is large)"
	@$(if $(CPU),$(BIN)/python -m pip install --quiet --disable-pip-version-check uv)
	@VIRTUAL_ENV=$(VENV) $(BIN)/python -m $(INSTALL) --editable '.[test]'
	@touch $@
	@echo "== installed"

run: install
	@echo "== tlg run mini: the notebooks on the generated data (ten to forty minutes on two cores)"
	@$(BIN)/tlg run mini

test: test-units test-notebooks

test-units: install
	@echo "== unit tests"
	@$(TEST_ENV) $(BIN)/python -m pytest tests -m "not browser" -n 2 --dist loadfile

test-notebooks: install
	@echo "== notebooks and the solutions of their exercises at smoke size"
	@rm -rf $(TEST_HOME)
	@$(BIN)/python -m tlg_lib.runs.exercises --write $(TEST_HOME)/notebooks
	@TLG_HOME=$(TEST_HOME) $(TEST_ENV) $(BIN)/python -m pytest $(TEST_HOME)/notebooks --nbval-lax \
	  --nbval-cell-timeout=300 -n 2 --dist loadscope

test-browser: install
	@echo "== widgets in headless Chromium"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,browser]'
	@$(TEST_ENV) $(BIN)/python -m pytest tests/browser -m browser -rs

fuzz: install
	@TLG_FUZZ=$(or $(SHARE),1) $(TEST_ENV) $(BIN)/python -m pytest tests/commands/test_fuzz.py -s --timeout=0

mutants: install
	@$(BIN)/python tests/mutants.py

exercises: install
	@echo "== exercises"
	@$(if $(filter full,$(SIZE)),,TLG_HOME=$(TEST_HOME) $(TEST_ENV)) $(BIN)/python -m tlg_lib.runs.exercises \
	  $(if $(filter full,$(SIZE)),$(if $(wildcard runs/mini/results.json),--run runs/mini))

docs: install
	@$(BIN)/tlg run mini
	@$(BIN)/python -m tlg_lib.runs.docs runs/mini docs

site: install
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[site]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "== built; to read it with its search: $(BIN)/python -m http.server --directory build/site"

# With the oldest Python too; older NumPy and PyTorch have no builds for newer ones. Types are those of the newest.
test-lowest: install
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv venv --quiet --seed --clear --python $(or $(PYTHON),$(OLDEST),3.10) build/lowest
	@VIRTUAL_ENV=build/lowest $(BIN)/uv pip install --quiet --resolution lowest-direct $(if $(CPU),--torch-backend=cpu) --editable '.[test]'
	@$(TEST_ENV) build/lowest/bin/python -m pytest tests -m "not browser" -n 2 --dist loadfile --ignore tests/core/test_style.py
	@rm -rf build/lowest

clean:
	rm -rf .venv build artefacts cache data/mini data/mini-smoke runs/smoke .pytest_cache .mypy_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
