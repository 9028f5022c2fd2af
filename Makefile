# Everything runs in a virtual environment inside the checkout; `make help` lists the targets.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# Which DALI and CuPy: the CUDA version that the driver runs decides. EXTRA=... overrides.
CUDA  := $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p' | head -n 1)
EXTRA ?= $(if $(CUDA),$(shell [ $(CUDA) -ge 13 ] && echo cuda13 || echo cuda12),cpu)
FOUND := $(if $(CUDA),nvidia-smi reports CUDA $(CUDA),no GPU found by nvidia-smi)

# The tested torch. TORCH_INDEX=URL takes another build of it (README, "Install").
TORCH       := torch==2.13.0
TORCH_INDEX ?=

# A short run on the sample videos; without a GPU on a narrower network.
TRAIN_FLAGS ?= --steps 100 --bs 4 --clips_per_video 3 $(if $(filter cpu,$(EXTRA)),--width 0.25)

STAMP := $(VENV)/installed-$(EXTRA)
OTHER := $(filter-out $(STAMP),$(wildcard $(VENV)/installed-*))

.DEFAULT_GOAL := help
.PHONY: help venv doctor samples train bench evidence test test-gpu battery soak lint types clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

venv: $(STAMP) ## create .venv and install pinned dependencies

# The two DALI builds cannot live together, so a changed extra, like an install that did not end,
# starts from an empty environment.
$(STAMP): pyproject.toml
	@echo "installing the extra '$(EXTRA)' into $(VENV) ($(FOUND); EXTRA=cpu|cuda12|cuda13 overrides)"
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit( \
	  f"$(PYTHON) is Python {v[0]}.{v[1]}; 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(if $(OTHER),--clear) $(VENV)
	@touch $(VENV)/installed-partly
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@[ $(EXTRA) = cpu ] || $(BIN)/python -W ignore -c 'import sys, torch; \
	  torch.cuda.is_available() or sys.exit( \
	  f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use the GPU of this machine: " \
	  "see README, Installing")'
	$(BIN)/pip install --quiet --editable '.[$(EXTRA),test]'
	@mv $(VENV)/installed-partly $@

doctor: venv ## what is there, does it work, and what to do if not
	$(BIN)/python -m benchmarks.doctor $(DOCTOR_FLAGS)

samples: venv ## render the sample videos into samples/
	@[ -d samples ] || $(BIN)/python -m dali_pipes.prepare samples --out samples

train: samples ## train on the sample videos for a few minutes
	$(BIN)/python train.py --videos samples $(TRAIN_FLAGS)

bench: samples ## measure what limits this machine, beside other loaders
	$(BIN)/python -m benchmarks $(BENCH_FLAGS)

evidence: venv ## train and judge networks on sample videos: does pre-training help?
	$(BIN)/python -m benchmarks.evidence

test: venv ## run every test
	$(BIN)/python -m pytest -n 2 --dist loadfile  # many wait for processes of their own

test-gpu: venv ## run the tests that need a GPU; they fail where there is none
	STS_EXPECT_GPU=1 $(BIN)/python -m pytest -m 'gpu and not soak'

battery: venv ## run the batteries that the tests shorten
	$(BIN)/python -m pytest -m battery

soak: venv ## run the long tests of memory and long lists
	$(BIN)/python -m pytest -m soak -s

lint: venv ## check style and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: venv ## check types
	$(BIN)/mypy

clean: ## remove the environment, sample videos and caches; runs and checkpoints stay
	rm -rf $(VENV) samples .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
