# make quickstart   meta-trains a rule, and compares it and one that ships with others (5 minutes)
# make test         lint, types and tests
# make test-slow    whole networks and all combinations (an hour)
# make test-tfds    tests with TensorFlow Datasets, in an environment of their own (600 MB)
# make test-versions   wheel and sdist, used from elsewhere: the lowest versions, newer Pythons,
#                      upstream's main branch
# make test-reliability   the long tests of what a run survives (half an hour)
# make test-faults  puts faults in one at a time, and says which the tests notice (an hour)
# make experiments-cpu   every experiment at its size for two cores, into runs/; goes on where it was
# make benchmarks   the benchmarks and their table (25 minutes, on a quiet machine)
# make install      the virtual environment alone
# make docs         the documentation, into site/, if every public name is in it and says its shapes;
#                      make docs-serve shows it, with search
# make requirements resolves the pinned versions anew
# PYTHON=python3.12 picks another interpreter; remove .venv and .venv-tfds to change it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TFDS_VENV := .venv-tfds
CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "comm_lopt needs Python 3.11 or newer; run make PYTHON=python3.12")'
PIP = -m pip --disable-pip-version-check install --quiet --no-compile --no-deps
# $(call install,VENV,WHAT), pinned, upstream included, so that nothing is resolved: upstream's own pins
# cannot be met. uv takes a quarter of pip's time; where it reaches no registry, pip does it.
install = $(1)/bin/uv pip install --quiet --no-deps --python $(1)/bin/python $(2) \
	|| $(1)/bin/python $(PIP) $(2)
# Even where the environment has it: modules are compiled once, and not in each of a hundred processes.
export PYTHONDONTWRITEBYTECODE :=
OUT ?= runs/quickstart
RESULTS ?= experiments/benchmarks/results
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate \
	--custom-compile-command 'make requirements' setup.py requirements/upstream.in

.PHONY: install quickstart test test-slow test-tfds test-versions test-reliability test-faults \
	benchmarks lint types docs docs-serve requirements clean experiments-cpu

install: $(VENV)/.installed
quickstart: $(VENV)/.installed
	$(BIN)/python experiments/quickstart.py --out_dir $(OUT)

test: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 10

# Whole networks take longer to run than to compile.
test-slow: $(VENV)/.dev
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -n 2 --durations 10 -m slow

test-tfds: $(TFDS_VENV)/.installed
	$(TFDS_VENV)/bin/python -m pytest -n 2 --dist loadfile --durations 10 tests/tfds \
		$(addprefix tests/upstream/test_,leaves_others_alone.py optional_modules.py summary_writer.py)

test-versions: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" tests/versions/run $(JOBS)

test-reliability: $(VENV)/.dev
	$(call install,$(VENV),-r requirements/fuzz.txt)
	$(BIN)/python -m pytest -m reliability --durations 10 tests/reliability

test-faults: $(VENV)/.dev
	$(BIN)/python tests/faults/run.py --out runs/faults

benchmarks: $(VENV)/.installed
	for name in data learned_update meta_step sweep processes; do \
		$(BIN)/python experiments/benchmarks/$$name.py --out $(RESULTS)/$$name.json || exit 1; \
	done
	$(BIN)/python experiments/benchmarks/table.py --folder $(RESULTS)

# Two at a time, each on one thread, the second from the last task on; what is timed comes last, alone.
# TUNED= tunes the baselines of the test tasks anew, which takes three times as long.
TUNED ?= --tuned experiments/generalisation/results
TASKS_BACKWARDS := transformer_large,transformer,mlp_half_absent,mlp_dirichlet,mlp_k32,mlp_k2,mlp_h64
TEST_TASKS = $(BIN)/python experiments/generalisation/run.py --out_dir runs/generalisation $(TUNED) \
	--theta lopt-m-1 --theta lopt-r-1:local_learning_rate=0.1 --theta lagg-r-1:local_learning_rate=0.1
experiments-cpu: $(VENV)/.installed
	export XLA_FLAGS=--xla_cpu_multi_thread_eigen=false; \
	{ $(BIN)/python experiments/reproduction/run.py --out_dir runs/reproduction \
		&& $(TEST_TASKS) --tasks $(TASKS_BACKWARDS); } & first=$$!; \
	$(TEST_TASKS) || exit 1; \
	wait $$first || exit 1; \
	$(TEST_TASKS) || exit 1; \
	$(BIN)/python experiments/reproduction/cost/run.py --out_dir runs/cost

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/python tests/docs/check_api.py
	$(BIN)/zensical build --strict --clean

docs-serve: docs
	$(BIN)/python -m http.server --directory site 8000

requirements: $(VENV)/.dev
	$(LOCK) $(UPGRADE) --output-file requirements.txt
	$(LOCK) --constraint requirements.txt --extra test --extra docs --extra hub --extra report --output-file requirements/dev.txt
	$(LOCK) --constraint requirements/dev.txt --extra test --extra tfds --output-file requirements/tfds.txt
	$(LOCK) --constraint requirements/dev.txt --extra fuzz --output-file requirements/fuzz.txt

clean:
	rm -rf $(VENV) $(TFDS_VENV) build dist site *.egg-info

$(VENV)/.installed: setup.py requirements.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	-$(BIN)/python $(PIP) --constraint requirements/dev.txt uv
	$(call install,$(VENV),-r requirements.txt --editable .)
	touch $@

$(VENV)/.dev: $(VENV)/.installed requirements/dev.txt
	$(call install,$(VENV),-r requirements/dev.txt)
	touch $@

$(TFDS_VENV)/.installed: setup.py requirements/tfds.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(TFDS_VENV)
	-$(TFDS_VENV)/bin/python $(PIP) --constraint requirements/dev.txt uv
	$(call install,$(TFDS_VENV),-r requirements/tfds.txt --editable .)
	touch $@
