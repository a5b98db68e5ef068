#!/usr/bin/env bash
# The C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer, on 1, 2 and 4 threads.
# Builds a copy of the package in build/sanitized; needs g++ and the development packages.
#
#   scripts/sanitize.sh [python]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v "${1:-python3}") || { echo "sanitize: no python at ${1:-python3}" >&2; exit 2; }
command -v "${CXX:-g++}" >/dev/null || { echo "sanitize: no C++ compiler; install g++" >&2; exit 2; }

rm -rf build/sanitized
UNIVA_BUILD_CUDA=0 UNIVA_BUILD_EXTENSION=1 \
  CXXFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" \
  LDFLAGS="-fsanitize=address,undefined" \
  "$python" setup.py --quiet build --build-base build/sanitized/base --build-lib build/sanitized/lib

# libstdc++ has to be there before AddressSanitizer looks for what throws exceptions.
runtime=
for library in libasan.so libubsan.so libstdc++.so; do
  runtime+="$("${CXX:-g++}" -print-file-name=$library):"
done
for threads in 1 2 4; do
  echo "sanitize: $threads threads"
  # Leaks: Python and torch keep what they like until the process ends.
  LD_PRELOAD="$runtime" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
    PYTHONPATH=build/sanitized/lib:. "$python" -P -c '
import sys
import univa_kernels
import pytest
import torch

assert "sanitized" in univa_kernels.__file__, univa_kernels.__file__
assert univa_kernels.build_info()["extension"], univa_kernels.build_info()
torch.set_num_threads(int(sys.argv[1]))
sys.exit(pytest.main(["-q", "-s", "-p", "no:cacheprovider", "-k", "not reference and not compile",
    "tests/kernels/test_contrastive.py", "tests/kernels/test_contrastive_behaviour.py",
    "tests/kernels/test_losses.py", "tests/kernels/test_prior.py", "tests/kernels/test_golden.py"]))
' "$threads"
done
