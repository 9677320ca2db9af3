# Every command does all the set-up. PYTHON chooses the interpreter: make test PYTHON=python3.12
PYTHON ?= python3
# An environment for each interpreter that is named: .venv, .venv-3.12, ...
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
# Installed in addition to what the command needs: make quickstart EXTRAS=cuda13, make test EXTRAS=tpu
EXTRAS ?=
BIN := $(VENV)/bin

# A stamp for each set of extras in setup.py, so that a command that needs more installs more. To run, no extra is needed.
TO_RUN := $(VENV)/installed$(EXTRAS:%=-%)
TO_TEST := $(VENV)/installed-test$(EXTRAS:%=,%)
TO_LINT := $(VENV)/installed-dev$(EXTRAS:%=,%)
TO_DOCUMENT := $(VENV)/installed-docs$(EXTRAS:%=,%)

# What the benchmarks compare with is installed in a separate environment.
PEERS := .venv-peers
PEERS_INSTALLED := $(PEERS)/installed

# For training on CPUs, where glibc is the C library: memory comes in pages of 2 MiB. Otherwise a step spends a fifth of its time
# on getting gigabytes in pages of 4 KiB.
HUGE_PAGES := GLIBC_TUNABLES=glibc.malloc.hugetlb=1

.PHONY: help quickstart test test-fast test-heavy test-interop interop-environment coverage lint format types docs bench peers clean

help:
	@echo "make quickstart   pretrain, probe and fine-tune on handwritten digits; 3 to 10 minutes on 2 cores"
	@echo "make test         the tests in parallel, without those marked heavy; 11 minutes on 2 cores"
	@echo "make test-fast    the unit tests only; 2 minutes on 2 cores"
	@echo "make test-heavy   the rest: real jobs of several processes, interrupted runs, large compilations"
	@echo "make test-interop imports and exports beside PyTorch and ONNX Runtime, in an environment of its own"
	@echo "make coverage     make test, and which lines it ran: a table, and htmlcov/index.html"
	@echo "make lint         ruff, and the checks of .pre-commit-config.yaml"
	@echo "make types        mypy"
	@echo "make format       ruff mends what it can"
	@echo "make docs         the documentation site, in docs/_build/html"
	@echo "make bench        the benchmarks against PyTorch and lightly, into docs/benchmarks.md; over an hour on 2 cores"
	@echo "make peers        only install what the benchmarks compare with; 6 GB"
	@echo "make clean        remove the environments and everything built"
	@echo "Options: PYTHON=python3.12, EXTRAS=cuda12, cuda13 or tpu, TESTARGS=tests/models, DOCSARGS=-v"

define install
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed, this is " + sys.version'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '$(1)'
	touch $@
endef

# Made again whenever the requirements change. A failed install leaves no stamp and is tried again.
$(VENV)/installed: setup.py constraints.txt
	$(call install,.)

$(VENV)/installed-%: setup.py constraints.txt
	$(call install,.[$*])

quickstart: $(TO_RUN)
	$(HUGE_PAGES) $(BIN)/python -m simclr_jax.quickstart runs/quickstart

# As many workers as cores, but no more than four: each holds up to 5 GiB.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

# Without what `make test-interop` runs.
MARKS := not heavy and not interop

test: $(TO_TEST)
	$(PYTEST) -m "$(MARKS)" $(TESTARGS)

test-fast: $(TO_TEST)
	$(PYTEST) -m "$(MARKS) and not slow" $(TESTARGS)

# The tests of one group, which share a cluster, run in one worker.
test-heavy: $(TO_TEST)
	$(PYTEST) --dist loadgroup -m heavy $(TESTARGS)

# PyTorch is large, and not needed for anything else, so it has an environment of its own.
INTEROP := EXTRAS=torch VENV=.venv-interop

interop-environment:
	$(MAKE) '.venv-interop/installed-test,torch' $(INTEROP)

test-interop:
	$(MAKE) test $(INTEROP) MARKS="not heavy" TESTARGS="tests/interchange $(TESTARGS)"

coverage: $(TO_TEST)
	$(PYTEST) -m "not heavy" --cov --cov-report=term:skip-covered --cov-report=html $(TESTARGS)

lint: $(TO_LINT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@if git rev-parse --git-dir > /dev/null 2>&1; then \
	  PATH="$(BIN):$$PATH" SKIP=ruff,ruff-format,mypy $(BIN)/pre-commit run --all-files; \
	fi

format: $(TO_LINT)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(TO_LINT)
	$(BIN)/mypy

docs: $(TO_DOCUMENT)
	$(BIN)/python docs/draw_architecture.py
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --builder html $(DOCSARGS) docs docs/_build/html

# 6 GB of disk: on Linux the package index has PyTorch with CUDA only.
$(PEERS_INSTALLED): benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet --requirement benchmarks/peers.txt
	$(PEERS)/bin/python -c 'from lightly.loss import NTXentLoss; from lightly.transforms import SimCLRTransform; import timm, torchvision'
	touch $@

peers: $(PEERS_INSTALLED)

# With JPEG files of your own: make bench INPUTARGS="--images_32=FOLDER --images_224=FOLDER"
bench: $(TO_RUN) $(PEERS_INSTALLED)
	$(BIN)/python -m benchmarks.loss
	$(BIN)/python -m benchmarks.input $(INPUTARGS)
	$(BIN)/python -m benchmarks.step
	$(HUGE_PAGES) $(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.tpu_step  # make bench EXTRAS=tpu

clean:
	rm -rf $(VENV) .venv-interop $(PEERS) *.egg-info build docs/_build docs/api htmlcov .coverage .cache .mypy_cache .pytest_cache .ruff_cache
