# Both commands do all the set-up. PYTHON chooses the interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
# What is installed beside the package itself: make test EXTRAS=test,tpu for planning; tpu, cuda12, cuda13 for such machines.
EXTRAS ?= test
BIN := $(VENV)/bin
# A stamp for each set of extras, so that asking for more installs more.
INSTALLED := $(VENV)/installed-$(EXTRAS)

# What the benchmarks compare with has an environment of its own.
PEERS := .venv-peers
PEERS_INSTALLED := $(PEERS)/installed

# For training on CPUs, where glibc is the C library: it keeps the memory that a step frees. Otherwise the system takes
# it back, and clears gigabytes of it for the next step.
KEEP_MEMORY := GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1000000000000

.PHONY: help quickstart test test-heavy lint format peers bench clean

help:
	@echo "make quickstart   pretrain, probe and fine-tune on handwritten digits; 8 to 15 minutes on 2 cores"
	@echo "make test         the tests, in parallel, without those marked heavy"
	@echo "make test-heavy   those: real jobs of several processes, interrupted runs, large compilations"
	@echo "make lint         ruff"
	@echo "make bench        the benchmarks against PyTorch and lightly, into docs/benchmarks.md; over an hour on 2 cores"

# Made again whenever the requirements change. A failed install leaves no stamp and is tried again.
$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed, this is " + sys.version'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

quickstart: $(INSTALLED)
	$(KEEP_MEMORY) $(BIN)/python -m simclr_jax.quickstart runs/quickstart

# As many workers as cores, but no more than four: each holds up to 2 GiB.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test: $(INSTALLED)
	$(PYTEST) -m "not heavy" $(TESTARGS)

test-heavy: $(INSTALLED)
	$(PYTEST) -m heavy $(TESTARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# 6 GB of disk: on Linux the package index has PyTorch with CUDA only.
$(PEERS_INSTALLED): benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet --requirement benchmarks/peers.txt
	$(PEERS)/bin/python -c 'from lightly.loss import NTXentLoss; from lightly.transforms import SimCLRTransform; import timm, torchvision'
	touch $@

peers: $(PEERS_INSTALLED)

# With JPEG files of one's own: make bench INPUTARGS="--images_32=FOLDER --images_224=FOLDER"
bench: $(INSTALLED) $(PEERS_INSTALLED)
	$(BIN)/python -m benchmarks.loss
	$(BIN)/python -m benchmarks.input $(INPUTARGS)
	$(BIN)/python -m benchmarks.step
	$(KEEP_MEMORY) $(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.tpu_step  # make bench EXTRAS=test,tpu

clean:
	rm -rf $(VENV) $(PEERS) *.egg-info build
