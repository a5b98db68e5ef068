#!/usr/bin/env bash
# Does UniVA work on the GPU of this machine? One command, with the interpreter in hand:
#
#     PYTHON=python3 scripts/gpu_check.sh
#
# Needs Python 3.11 or later with a CUDA build of torch 2.11 or later, pybind11, setuptools 77 or
# later, pytest and hypothesis; nvcc; a C++ compiler. Uses no network, makes no environment and
# installs nothing. Builds the extension in place for the GPU that is there (TORCH_CUDA_ARCH_LIST
# says otherwise), then runs the benchmark suite (benchmarks/results/<gpu>.json with report and plots,
# where there is matplotlib) and the figures that have to reach something; the tests marked gpu;
# compute-sanitizer, where there is one, over a short list of cases; and the kernel tests. Within 9
# minutes (UNIVA_GPU_SECONDS says otherwise): what does not fit is told as not run, what was measured
# is kept, also when it is stopped (Ctrl-C, SIGTERM).
# Exit status 0: all was run and passed, and the figures reach what they must; 130: stopped.
set -euo pipefail
LIMIT=${UNIVA_GPU_SECONDS:-530}  # seconds for everything, the build included
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}

say() { printf '\n== %s\n' "$*"; }

# A command within so many seconds. After them it is interrupted, so that it keeps what it has. It
# runs in the background: timeout gives it a process group, which an interrupt of this script would
# not reach, and a shell that waits in the foreground would not act on it either.
child=
limited() {
    local status=0
    timeout --signal=INT --kill-after=10 "$@" &
    child=$!
    wait "$child" || status=$?
    child=
    return "$status"
}
stop() {
    trap - INT TERM
    if [ -n "$child" ]; then
        kill -INT "$child" 2>/dev/null || true
        wait "$child" || true
    fi
    say "STOPPED; what was measured is in benchmarks/results"
    exit 130
}
trap stop INT TERM

say "What is here"
capability=$("$PYTHON" - <<'PY'
import importlib.metadata
import platform
import sys


def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def fail(message):
    sys.exit(f"gpu_check: {message}")


names = ("torch", "numpy", "pybind11", "setuptools", "pytest", "hypothesis", "pytest-timeout")
found = {name: version(name) for name in names}
print("python", platform.python_version(), sys.executable, file=sys.stderr)
for name, value in found.items():
    print(name, value or "not installed", file=sys.stderr)
missing = [name for name in names[:-1] if found[name] is None]
if missing:
    fail(f"{sys.executable} lacks {', '.join(missing)}")
if sys.version_info < (3, 11):
    fail("Python 3.11 or later is needed")
if int(found["setuptools"].split(".")[0]) < 77:
    fail("setuptools 77 or later is needed to read pyproject.toml")

import torch  # noqa: E402

if torch.version.cuda is None:
    fail(f"torch {torch.__version__} is a CPU build: nothing to check on a GPU")
if not torch.cuda.is_available():
    fail(f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU on this machine")
print("GPU", torch.cuda.get_device_name(), "of", torch.cuda.device_count(), file=sys.stderr)
print("{}.{}".format(*torch.cuda.get_device_capability()))
PY
)
command -v nvcc >/dev/null && nvcc --version | tail -n 2
"${CXX:-c++}" --version | head -n 1

export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$capability}
say "Building in place for $TORCH_CUDA_ARCH_LIST"
UNIVA_BUILD_EXTENSION=1 UNIVA_BUILD_CUDA=1 limited "$LIMIT" \
    "$PYTHON" setup.py --quiet build_ext --inplace
"$PYTHON" - <<'PY'
import univa_kernels

info = univa_kernels.build_info()
for name, value in info.items():
    print(f"{name}: {value}")
assert info["backends"]["cuda"] is None, f"the cuda backend does not serve: {info['backends']['cuda']}"
PY

# By file: collecting every test would import what only training needs.
mapfile -t marked < <(grep -rlE 'mark\.gpu\b' tests --include='test_*.py' | sort)
failed=()
# A step that fails does not keep the others from running; all of them are told at the end. What
# would end after LIMIT is stopped.
step() {
    local name=$1 left=$((LIMIT - SECONDS))
    shift
    say "$name"
    if [ "$left" -lt 5 ]; then
        echo "NOT RUN: $LIMIT s are over"
        failed+=("$name (not run, out of time)")
        return
    fi
    limited "$left" "$@" || failed+=("$name")
}

name=$("$PYTHON" -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "-"))')
# First what this is for: figures, each contender held against float64 before. Every workload that
# is done is kept in benchmarks/results/<gpu>.json, which `python -m benchmarks compare` reads.
step "Benchmark suite" "$PYTHON" -m benchmarks run --device cuda --seconds 150
# Judges Triton's figures against what they must reach; written after every figure.
step "Benchmark beside the bare matrix product" "$PYTHON" -m benchmarks.gpu --largest \
    --out "benchmarks/results/$name-kernels.json"
# The figures are kept where they miss what they must reach, too.
step "The loss at training batch sizes, and what it must reach" \
    "$PYTHON" -m benchmarks.gpu_small_batch --out "benchmarks/results/$name-small-batch.json"
step "Tests marked gpu" "$PYTHON" -m pytest -m gpu "${marked[@]}"
# memcheck: bounds; racecheck: shared memory; initcheck: device memory; synccheck: barriers.
if command -v compute-sanitizer >/dev/null; then
    for check in memcheck racecheck initcheck synccheck; do
        step "compute-sanitizer $check" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
            compute-sanitizer --tool "$check" --error-exitcode 1 --print-limit 20 \
            "$PYTHON" -m tests.kernels.sanitized
    done
else
    say "No compute-sanitizer on this machine: memory and barriers were NOT checked"
fi
step "Kernel tests, the CPU backend's too" "$PYTHON" -m pytest -m "not gpu" tests/kernels
step "What the compiler says of the kernels" "$PYTHON" -m benchmarks.cuda_resources
if [ "${#failed[@]}" = 0 ]; then
    say "Passed on this GPU"
    exit 0
fi
say "FAILED on this GPU:"
printf '   %s\n' "${failed[@]}"
exit 1
