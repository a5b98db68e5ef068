"""Resources and speed of light of the GPU kernels, read off their machine code: no GPU needed.

    make kernel-report
    python -m benchmarks.kernel_report --json report.json --archs 90

Every Triton kernel is compiled ahead of time at its default configurations: every kind of product
at every depth, and the options at the largest depths. That takes minutes the first time. Columns:
registers of a thread, bytes spilled, shared memory of a block, tensor-core instructions in the PTX,
and the time that one H200 would need at N = 16384 if nothing but its matrix rate or its memory
bound it: estimates, no measurements. Exit status 1: a kernel spills, or lacks its architecture's
tensor-core instruction, or takes too much shared memory.

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

# Operations per second by kind of product: bfloat16 measured, the others of the datasheet.
MATRIX_RATE = {"half": 790e12, "tf32": 495e12, "ieee": 67e12}
MEMORY_RATE = 4.3e12  # bytes per second
CACHE_RATE = 5.5e12  # bytes per second from the L2 cache: an assumption, not measured
ROWS = 16384
# Shared memory that one block may take.
SHARED_LIMIT = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}


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


def specifications(arch: int, few: bool = False) -> list[dict[str, Any]]:
    """What to compile for an architecture; `few` is a cross-section that tests can afford."""
    from univa_kernels._triton import configs
    from univa_kernels._triton.sources import OPTIONS

    every = []
    for kernel, kind, depth, config in configs.table((arch // 10, arch % 10)):
        if kernel in ("merge", "boxes"):
            switch = "LEARNED" if kernel == "merge" else "WIDE"
            every += [
                (kernel, kind, "float32", depth, config, contrast, name, flags)
                for name, flags in (("plain", {}), (switch.lower(), {switch: True}))
                for contrast in (("self", "cross") if kernel == "merge" else ("self",))
            ]
            continue
        dtypes = ("bfloat16", "float16") if kind == "half" else ("float32",)
        for dtype in dtypes:
            for contrast in ("self", "cross"):
                for name, options in OPTIONS.items():
                    if name != "plain" and (depth < 256 or dtype == "float16"):
                        continue
                    flags = {**options, "PRECISION": "tf32" if kind == "tf32" else "ieee"}
                    if kind != "half":
                        flags.pop("NORMALIZED", None)  # scaled before
                    rich = configs.for_options(kernel, config) if name != "plain" else config
                    every.append((kernel, kind, dtype, depth, rich, contrast, name, flags))
    names = ("kernel", "kind", "dtype", "D", "config", "contrast", "options", "flags")
    rows = [dict(zip(names, row, strict=True)) for row in every]
    return [row for row in rows if not few or _is_of_the_few(row)]


# Kernel, kind, D, contrast, options: each value of each at least once.
_FEW = {
    ("forward", "half", 768, "self", "plain"),
    ("forward", "half", 256, "self", "learned, excluded, wide"),
    ("forward", "tf32", 768, "cross", "plain"),
    ("forward", "ieee", 256, "self", "groups"),
    ("gradient_rows", "half", 256, "self", "plain"),
    ("gradient_rows", "tf32", 128, "cross", "plain"),
    ("gradient_rows", "ieee", 64, "cross", "plain"),
    ("gradient_block", "half", 768, "self", "gaussian"),
    ("gradient_block", "tf32", 768, "self", "gaussian, learned, groups, wide"),
    ("gradient_block", "ieee", 768, "cross", "plain"),
    ("merge", "ieee", 0, "self", "learned"),
    ("boxes", "ieee", 0, "self", "wide"),
}


def _is_of_the_few(row: dict[str, Any]) -> bool:
    chosen = tuple(row[name] for name in ("kernel", "kind", "D", "contrast", "options")) in _FEW
    # float16 is compiled where its gradient is kept in another dtype than bfloat16's.
    of_dtype = (row["dtype"] == "float16") == (row["kernel"] == "gradient_rows")
    return chosen and (row["kind"] != "half" or of_dtype)


def compile_triton(arch: int, few: bool = False) -> list[dict[str, Any]]:
    """Body of the process that compiles for one architecture."""
    import torch

    from univa_kernels._triton.sources import compiled

    found = []
    for row in specifications(arch, few):
        kernel, kind, depth, config = row["kernel"], row["kind"], row["D"], row["config"]
        symmetric, dtype = row["contrast"] == "self", getattr(torch, row["dtype"])
        binary = compiled(kernel, dtype, depth, config, arch, symmetric, **row["flags"])
        operations, traffic = work(kernel, dtype.itemsize, depth, symmetric, config)
        cached = cache_traffic(kernel, dtype.itemsize, depth, symmetric, config)
        bounds = (operations / MATRIX_RATE[kind], traffic / MEMORY_RATE, cached / CACHE_RATE)
        found.append(
            {
                "kernel": kernel,
                "arch": arch,
                "dtype": row["dtype"],
                "product": kind if kernel not in ("merge", "boxes") else "none",
                "D": depth,
                "contrast": row["contrast"],
                "options": row["options"],
                "config": str(config),
                **resources(binary),
                "shared": binary.metadata.shared,
                "instruction": instruction(binary.asm["ptx"]),
                "GFLOP": round(operations / 1e9, 1),
                "MB": round(traffic / 1e6, 1),
                "L2 MB": round(cached / 1e6),
                "ms": round(max(bounds) * 1e3, 3),
                "bound": ("matrix", "memory", "L2")[bounds.index(max(bounds))],
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
    if kernel == "boxes":
        return 0.0, ROWS * 2 * 4.0
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


def cache_traffic(
    kernel: str, element_size: int, depth: int, symmetric: bool, config: Any
) -> float:
    """Bytes of embeddings that the tiles load through the L2 cache at N = M = ROWS.

    A tile loads its columns, and its rows too where they are streamed along D.
    """
    if kernel in ("merge", "boxes"):
        return 0.0
    halved = symmetric and kernel != "gradient_rows"
    tiles = ROWS * ROWS / (config.block_m * config.block_n) * (0.5 if halved else 1)
    resident = config.block_d >= depth
    return tiles * (config.block_n + (0 if resident else config.block_m)) * depth * element_size


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


def complaint(row: dict[str, Any]) -> str | None:
    """What is wrong with a kernel, or None."""
    name = " ".join(str(row[key]) for key in ("kernel", "arch", "dtype", "D", "contrast"))
    name = f"{name} ({row['product']}; {row['options']}; {row['config']})"
    wanted = TENSOR_CORES[row["arch"]]
    if row["product"] in ("half", "tf32") and row["instruction"] != wanted:
        return f"{name}: {row['instruction']} where {wanted} is wanted"
    if row["product"] == "ieee" and row["instruction"] != "fma":
        return f"{name}: {row['instruction']} is no IEEE float32"
    if row["spilled"]:
        return f"{name}: {row['spilled']} bytes of registers spilled"
    if row["shared"] > SHARED_LIMIT[row["arch"]]:
        return f"{name}: {row['shared']} bytes of shared memory"
    return None


def cuobjdump() -> Path:
    """The one that comes with Triton."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def instruction(ptx: str) -> str:
    """The matrix instructions that the PTX holds, or else "fma" or "none"."""
    names = [name for name in ("tcgen05.mma", "wgmma.mma_async", "mma.sync") if name in ptx]
    return " ".join(names) or ("fma" if "fma." in ptx else "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", type=int, nargs="+", default=[80, 90, 100])
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--compile", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--few", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile:
        print(json.dumps(compile_triton(options.compile, options.few)))
        return
    tables = {name: table(options.archs) for name, table in TABLES.items()}
    for name, rows in tables.items():
        print(f"{name} kernels; ms: estimate for an H200 at N = {ROWS}")
        columns = list(rows[0])
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
    complaints = [text for rows in tables.values() for row in rows if (text := complaint(row))]
    if complaints:
        sys.exit("\n".join(["kernel_report: not as it should be:", *complaints]))


if __name__ == "__main__":
    main()
