# Two commands: `make demo` trains and scores a small HDGNN, `make test` checks everything. Both install first, once.
.PHONY: help install demo test format constraints clean
.DEFAULT_GOAL := help

# The newest Python on the PATH that torch 2.4 has wheels for; `make test PYTHON=...` chooses another.
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.10 3.9,$(shell command -v python$(version) 2>/dev/null)) python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

help:
	@echo "make demo         make a small data set by relaxation, train HDGNN on it, score it (about 10 minutes)"
	@echo "make test         lint, type check and tests (about 12 minutes)"
	@echo "make install      only make .venv and install into it"
	@echo "make format       let ruff format and fix the code"
	@echo "make constraints  pin the newest versions that fit together into constraints.txt (needs uv)"
	@echo "make clean        remove .venv and caches; data and results stay"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt tools/install.py
	$(PYTHON) tools/install.py
	@touch $@

demo: $(INSTALLED)
	$(BIN)/fairchem-hdgnn demo

test: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# One file for Python 3.9 to 3.12 on Linux; the sed drops what each marker repeats of that.
constraints:
	printf '%s\n' 'fairchem-core==1.10.0' 'setuptools<81' wheel | uv pip compile -q --universal --python-version 3.9 \
	    --all-extras --no-header --no-annotate --no-emit-index-url pyproject.toml - -o constraints.new
	sed -E -e "s/ and sys_platform == 'linux'//g; s/python_full_version < '3\.13' and //" \
	    -e "s/ (and|;) (python_full_version < '3\.13'|sys_platform == 'linux')$$//" constraints.new > constraints.txt
	rm constraints.new

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
