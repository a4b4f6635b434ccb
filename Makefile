# Two commands: `make demo` trains and scores a small HDGNN, `make test` checks everything. Both install first, once.
.PHONY: help install demo test test-heavy format docs matrix gpu-bundle gpu-rehearsal constraints clean again
.DEFAULT_GOAL := help

# A Python on the PATH that the newest tested torch supports, else an older one; `make test PYTHON=...` chooses another.
PYTHON ?= $(firstword $(foreach version,3.12 3.11 3.13 3.10 3.9,$(shell python$(version) -c \
    "import sys; print(sys.executable)" 2>/dev/null)) python3)
# fairchem-core 1.10 by default; `make test HOST=2` and `make demo HOST=2` use fairchem-core 2 in a separate environment.
HOST ?= 1
VENV := .venv$(filter 2,$(HOST))$(if $(NEWEST),-newest)
BIN := $(VENV)/bin
export HOST NEWEST

# A mark of a complete installation, with its options. Without TORCH, CPU and COMPILE they stay; others install again.
INSTALLED := $(VENV)/.installed
EXISTING := $(shell cat $(INSTALLED) 2>/dev/null)
OPTIONS := $(or $(strip $(foreach name,TORCH CPU COMPILE,$(addprefix $(name)=,$($(name))))),$(EXISTING))

# Tests of the networks, which do not need fairchem: also run under fairchem-core 2.
PORTABLE := $(patsubst %,tests/test_%.py,so3 sphere frames packed_matrix so2_convolution hdgnn_reference hdgnn_symmetry)

help:
	@echo "make demo         train HDGNN on 500 included relaxed structures and score it (about 5 minutes)"
	@echo "make test         lint, type check and tests (14 minutes on two cores of an AMD EPYC)"
	@echo "                  HOST=2: with fairchem-core 2 in .venv2; NEWEST=1: with its newest release, tested or not"
	@echo "make install      only create .venv and install into it; TORCH=2.7: another torch, CPU=1: torch without CUDA,"
	@echo "                  COMPILE=1: torch-scatter and torch-sparse from source"
	@echo "make matrix       test every supported torch in its own environment, and write the table in docs/install.md"
	@echo "make gpu-bundle   collect in .carry/ the files that benchmarks/gpu.py needs on a GPU machine without network access"
	@echo "make gpu-rehearsal  run benchmarks/gpu.py on this CPU (2 minutes, no meaningful numbers)"
	@echo "make test-heavy   slow tests that make test skips"
	@echo "make format       format and fix the code with ruff"
	@echo "make docs         build the documentation into site/; broken links are errors"
	@echo "make constraints  pin the newest compatible versions in constraints/"
	@echo "make clean        remove environments, builds and caches; keep data and results"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements.txt $(wildcard constraints/*.txt packaging/*/pyproject.toml) \
    tools/install.py tools/lines.py $(if $(subst $(EXISTING),,$(OPTIONS)),again)
	$(OPTIONS) $(PYTHON) tools/install.py
	@echo $(OPTIONS) > $@

demo: $(INSTALLED)
	$(BIN)/python examples/demo/run.py

ifeq ($(HOST),2)
test: $(INSTALLED)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile tests/fairchem2 $(PORTABLE)
else
test: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
endif

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test-heavy: $(INSTALLED)
	$(BIN)/pytest -m heavy

docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

.venv-docs/.installed: pyproject.toml constraints/docs.txt tools/docs_environment.py
	$(PYTHON) tools/docs_environment.py
	@touch $@

matrix: $(INSTALLED)
	$(BIN)/python tools/matrix.py

gpu-bundle: $(INSTALLED)
	$(BIN)/python tools/gpu_bundle.py

gpu-rehearsal: $(INSTALLED)
	$(BIN)/python benchmarks/gpu.py --everything --device cpu --tiny --out runs/gpu_rehearsal

constraints: $(INSTALLED)
	$(BIN)/python tools/constraints.py

clean:
	rm -rf .venv .venv2 .venv2-newest .venv-docs .matrix site build dist packaging/*/dist
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
