PYTHON  ?= python3
SYSTEM  ?= mask2former
SECONDS ?= 60
WORKERS ?= 2
VENV_PYTHON := .venv/bin/python
BENCHMARKS  := $(filter-out common peers long_videos,$(basename $(notdir $(wildcard benchmarks/[!_]*.py))))

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench cuda gpu-check wheel bundle sanitize fuzz clean

help:     ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install:  ## Make .venv with everything that is needed; a moment when it is there
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "Python 3.10 or newer is needed, $(PYTHON) is not: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) tools/bootstrap.py

demo: install  ## Train and evaluate on a small data set drawn on the spot (SYSTEM=mask2former|mask2former_video|autofocusformer|eomt|panoptic_segformer)
	@$(VENV_PYTHON) tools/quickstart.py --system $(SYSTEM)

test: install  ## Run the tests (WORKERS=2 processes of one thread each)
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(WORKERS) --dist worksteal --durations 10

lint: install  ## Check style and format
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .

bench: install  ## Measure speed and memory, each module of benchmarks/ a table
	@set -e; for name in $(BENCHMARKS); do echo "==> $$name"; $(VENV_PYTHON) -m benchmarks.$$name; done

cuda: install  ## Compile the GPU code, without a GPU (TORCH_CUDA_ARCH_LIST="8.0;9.0+PTX")
	@$(PYTHON) tools/bootstrap.py --cuda

gpu-check: install  ## Check and time everything on this machine's GPU, write docs/gpu.md
	@$(VENV_PYTHON) -m tools.gpu_check --output docs/gpu.md

wheel: $(if $(CUDA),cuda,install)  ## Build a wheel into dist/, with CUDA kernels if CUDA=1
	@$(VENV_PYTHON) -m tools.wheel $(if $(CUDA),--cuda)

# PYTHON is the other machine's version here, if it is a number.
bundle:   ## Pack all that gpu-check needs beside PyTorch into one file for a machine without network (PYTHON=3.12)
	@$(MAKE) --no-print-directory cuda PYTHON=$(if $(filter 3.%,$(PYTHON)),python3,$(PYTHON))
	@$(VENV_PYTHON) -m tools.bundle $(addprefix --python ,$(filter 3.%,$(PYTHON)))

sanitize: install  ## Test the CPU operators under AddressSanitizer and UBSan
	@$(VENV_PYTHON) tools/sanitize.py

fuzz: install  ## Try damaged files at every door (SECONDS=60 for each of about 25 tests)
	@OMP_NUM_THREADS=1 FUZZ_SECONDS=$(SECONDS) $(VENV_PYTHON) -m pytest -n $(WORKERS) tests/fuzz

clean:    ## Remove what was built, but neither .venv nor output/
	rm -rf build dist .pytest_cache .ruff_cache projects/*.egg-info projects/segcore/*.so
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
