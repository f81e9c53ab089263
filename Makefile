# make quickstart   meta-trains an optimizer on the bundled digits and compares it (5 minutes)
# make test         lint, types and tests, those with TensorFlow Datasets included
# make test-tfds    these alone; they have an environment of their own (a download of 600 MB)
# make test-reliability   the long tests of what a run survives (half an hour)
# make benchmarks   the benchmarks and their table (20 minutes, on a quiet machine)
# make install      the virtual environment alone
# make docs         the documentation, into site/
# PYTHON=python3.12 picks another interpreter; remove .venv and .venv-tfds to change it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TFDS_VENV := .venv-tfds
TFDS_PIP := $(TFDS_VENV)/bin/python -m pip --disable-pip-version-check
CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "comm_lopt needs Python 3.11 or newer; run make PYTHON=python3.12")'
OUT ?= runs/quickstart
RESULTS ?= experiments/benchmarks/results
UPSTREAM := learned-optimization==0.0.1

.PHONY: install quickstart test test-tfds test-reliability benchmarks lint types docs clean

install: $(VENV)/.installed
quickstart: $(VENV)/.installed
	$(BIN)/python experiments/quickstart.py --out_dir $(OUT)

test: lint types
	$(BIN)/python -m pytest -n 2 --durations 10
	$(MAKE) test-tfds

test-tfds: $(TFDS_VENV)/.test
	$(TFDS_VENV)/bin/python -m pytest -n 2 --dist loadfile --durations 10 tests/tfds tests/upstream \
		--ignore tests/upstream/test_upstream_own_tests.py

test-reliability: $(VENV)/.test
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,fuzz]'
	$(BIN)/python -m pytest -m reliability --durations 10 tests/reliability

benchmarks: $(VENV)/.installed
	for name in data learned_update meta_step sweep; do \
		$(BIN)/python experiments/benchmarks/$$name.py --out $(RESULTS)/$$name.json || exit 1; \
	done
	$(BIN)/python experiments/benchmarks/table.py --folder $(RESULTS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(PIP) install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build

clean:
	rm -rf $(VENV) $(TFDS_VENV) build *.egg-info

$(VENV)/.installed: setup.py constraints.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable .
	$(PIP) install --quiet --no-deps $(UPSTREAM)
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(TFDS_VENV)/.test: setup.py constraints.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(TFDS_VENV)
	$(TFDS_PIP) install --quiet --constraint constraints.txt --editable '.[test,tfds]'
	$(TFDS_PIP) install --quiet --no-deps $(UPSTREAM)
	touch $@
