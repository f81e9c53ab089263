# make quickstart   meta-trains an optimizer on the bundled digits and compares it (5 minutes)
# make test         lint, types and tests
# make install      the virtual environment alone
# make docs         the documentation, into site/
# PYTHON=python3.12 picks another interpreter; remove .venv to change it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
OUT ?= runs/quickstart
UPSTREAM := learned-optimization==0.0.1

.PHONY: install quickstart test lint types docs clean

install: $(VENV)/.installed
quickstart: $(VENV)/.installed
	$(BIN)/python experiments/quickstart.py --out_dir $(OUT)

test: lint types
	$(BIN)/python -m pytest -n 2 --durations 10

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(PIP) install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "comm_lopt needs Python 3.11 or newer; run make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable .
	$(PIP) install --quiet --no-deps $(UPSTREAM)
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
