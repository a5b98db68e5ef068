"""Peak memory of one forward and backward, each in a process of its own (Linux).

python -m benchmarks.memory univa_kernels 16384 256      # MiB above the inputs
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.contenders import contenders, inputs


def peak_memory(name: str, size: int, dim: int) -> float:
    """MiB of resident memory that a contender needs above what there was before the call."""
    command = [sys.executable, "-m", "benchmarks.memory", name, str(size), str(dim)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _resident(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def _measure(name: str, size: int, dim: int) -> float:
    contender = contenders()[name]
    small = inputs(size if name == "torch.compile" else 64, dim, 1, by_class=contender.by_class)
    contender.loss(*small).backward()  # libraries load, thread pools start, compilers compile
    del small
    rows, points = inputs(size, dim, 1, by_class=contender.by_class)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _resident("VmRSS")
    contender.loss(rows, points).backward()
    return _resident("VmHWM") - before


if __name__ == "__main__":
    print(_measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
