"""Resources and speed of light of the GPU kernels, read off their machine code: no GPU needed.

    make kernel-report
    python -m benchmarks.kernel_report --json report.json --archs 90

Every Triton kernel is compiled ahead of time at its default configurations. Columns: registers of
a thread, bytes spilled, shared memory of a block, tensor-core instructions in the PTX, and the time
that one H200 would need at N = 16384 if nothing but its matrix rate or its memory bound it. Both
rates were measured there; the times are estimates, not measurements.

A further table is a function that returns rows, added to `TABLES`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MATRIX_RATE = {
    2: 790e12,
    4: 67e12,
}  # operations per second, bfloat16 measured, float32 of the datasheet
MEMORY_RATE = 4.3e12  # bytes per second
ROWS = 16384
# Shared memory that one block may take.
SHARED_LIMIT = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
TENSOR_CORES = {80: "mma.sync", 90: "wgmma", 100: "tcgen05"}


def triton_rows(archs: list[int]) -> list[dict[str, Any]]:
    """One row for each kernel, configuration and architecture, in a process per architecture."""
    environment = {**os.environ}
    environment.pop("TRITON_INTERPRET", None)

    def compiled(arch: int) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.kernel_report", "--compile", str(arch)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        if done.returncode:
            sys.exit(f"kernel_report: compiling for sm_{arch} failed:\n{done.stderr[-4000:]}")
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    with ThreadPoolExecutor(2) as pool:
        return [row for rows in pool.map(compiled, archs) for row in rows]


TABLES: dict[str, Callable[[list[int]], list[dict[str, Any]]]] = {"Triton": triton_rows}


def compile_triton(arch: int) -> list[dict[str, Any]]:
    """Body of the process that compiles for one architecture."""
    import torch

    from univa_kernels._triton import configs
    from univa_kernels._triton.sources import compiled

    found = []
    for kernel, element_size, depth, config in configs.table((arch // 10, arch % 10)):
        dtype = torch.bfloat16 if element_size == 2 else torch.float32
        for symmetric in (True, False):
            binary = compiled(kernel, dtype, depth, config, arch, symmetric)
            operations, traffic = work(kernel, element_size, depth, symmetric, config)
            seconds = max(operations / MATRIX_RATE[element_size], traffic / MEMORY_RATE)
            found.append(
                {
                    "kernel": kernel,
                    "arch": arch,
                    "dtype": str(dtype).removeprefix("torch."),
                    "D": depth,
                    "contrast": "self" if symmetric else "cross",
                    "config": str(config),
                    "warps": config.warps,
                    **resources(binary),
                    "shared": binary.metadata.shared,
                    "instruction": instruction(binary.asm["ptx"]),
                    "GFLOP": round(operations / 1e9, 1),
                    "MB": round(traffic / 1e6, 1),
                    "ms": round(seconds * 1e3, 3),
                }
            )
    return found


def work(
    kernel: str, element_size: int, depth: int, symmetric: bool, config: Any
) -> tuple[float, float]:
    """Operations of the tensor cores and bytes of device memory at N = M = ROWS.

    Embeddings are read once (they fit the cache at this size); the states, losses and blocks that
    a kernel leaves are written once.
    """
    product = 2.0 * ROWS * ROWS * depth
    rows = ROWS * depth * element_size
    if kernel == "merge":
        return 0.0, ROWS * (64 if symmetric else 8) * 16.0
    if kernel == "forward":
        slots = ROWS / config.block_m if symmetric else 8
        return product * (0.5 if symmetric else 1), rows * (
            1 if symmetric else 2
        ) + slots * ROWS * 16
    if kernel == "gradient_rows":  # the logits again, and one product with them
        return 2 * product, rows * (2 if symmetric else 3)
    pairs = ROWS * ROWS * (0.5 if symmetric else 1)
    return product * (0.5 if symmetric else 1), rows + pairs * element_size


def resources(binary: Any) -> dict[str, int]:
    """Registers and spilled bytes, from the machine code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary.asm["cubin"])
        text = subprocess.run(
            [str(cuobjdump()), "--dump-resource-usage", str(path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    usage = dict(re.findall(r"(\w+):(\d+)", text))
    # A stack frame is where spilled registers go; so is what local memory there is.
    return {"registers": int(usage["REG"]), "spilled": int(usage["STACK"]) + int(usage["LOCAL"])}


def cuobjdump() -> Path:
    """The one that comes with Triton."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def instruction(ptx: str) -> str:
    """The best matrix instruction that the PTX holds."""
    for name in ("tcgen05.mma", "wgmma.mma_async", "mma.sync"):
        if name in ptx:
            return name
    return "fma"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", type=int, nargs="+", default=[80, 90, 100])
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--compile", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile:
        print(json.dumps(compile_triton(options.compile)))
        return
    tables = {name: table(options.archs) for name, table in TABLES.items()}
    for name, rows in tables.items():
        print(f"{name} kernels; ms: estimate for an H200 at N = {ROWS}")
        columns = [column for column in rows[0] if column != "warps"]
        lines = [columns, *([str(row[column]) for column in columns] for row in rows)]
        widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
        for line in lines:
            print(
                "  ".join(
                    text.ljust(width) for text, width in zip(line, widths, strict=True)
                ).rstrip()
            )
    if options.json:
        options.json.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
