"""What the CUDA kernels need of a GPU, as the compiler says: no GPU is needed to ask.

    python -m benchmarks.cuda_resources            # every kernel, for every architecture
    python -m benchmarks.cuda_resources sm_90      # for one

Registers, stack, spills and static shared memory come from ptxas (`-Xptxas -v`), whose words
setup.py keeps beside each object; whether a kernel has tensor-core instructions comes from the
machine code in the built extension, by `cuobjdump` (of the CUDA toolkit or of Triton's wheel).
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REGISTERS = 65536  # of a multiprocessor, on every architecture built for
THREADS = 256  # the most that a kernel of csrc/cuda is launched with
TENSOR_CORES = re.compile(r"\b(HMMA|HGMMA|UTCHMMA)\b")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel for one architecture, by its mangled name."""

    symbol: str
    architecture: str
    registers: int
    stack: int
    spilled: int  # bytes stored and loaded
    shared: int  # static, in bytes


def kernels(folder: Path = ROOT / "build") -> list[Kernel]:
    """Every kernel of the last build under `folder`."""
    found = []
    pattern = re.compile(
        r"Compiling entry function '(?P<symbol>\w+)' for '(?P<architecture>sm_\w+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
        r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
        r"(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    for path in sorted(folder.glob("extension-*/cuda/*.ptxas")):
        for match in pattern.finditer(path.read_text()):
            shared = re.search(r"(\d+) bytes smem", match["rest"])
            found.append(
                Kernel(
                    symbol=match["symbol"],
                    architecture=match["architecture"],
                    registers=int(match["registers"]),
                    stack=int(match["stack"]),
                    spilled=int(match["stores"]) + int(match["loads"]),
                    shared=int(shared[1]) if shared else 0,
                )
            )
    return found


def cuobjdump() -> str | None:
    """Path of the disassembler, from PATH or from Triton."""
    if path := shutil.which("cuobjdump"):
        return path
    triton = importlib.util.find_spec("triton")
    if triton is None or not triton.submodule_search_locations:
        return None
    return shutil.which(f"{triton.submodule_search_locations[0]}/backends/nvidia/bin/cuobjdump")


def library() -> Path:
    """The built extension."""
    spec = importlib.util.find_spec("univa_kernels._C")
    if spec is None or spec.origin is None:
        sys.exit("cuda_resources: univa_kernels._C is not built; run: make setup")
    return Path(spec.origin)


def kernels_on_tensor_cores(disassembler: str, architecture: str) -> dict[str, bool]:
    """Whether each kernel, by its mangled name, has tensor-core instructions."""
    command = [disassembler, "-sass", "-arch", architecture, str(library())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    result: dict[str, bool] = {}
    function = ""
    for line in process.stdout:
        if "Function : " in line:
            function = line.split()[-1]
            result.setdefault(function, False)
        elif "MMA" in line and TENSOR_CORES.search(line):
            result[function] = True
    if process.wait() != 0:
        sys.exit(f"cuda_resources: {' '.join(command)} failed")
    return result


def short(symbol: str) -> str:
    """A readable name of a kernel."""
    if shutil.which("c++filt") is None:
        return symbol
    name = subprocess.run(
        ["c++filt", symbol], capture_output=True, text=True, check=True
    ).stdout.strip()
    name = re.sub(r"univa::cuda::|\(anonymous namespace\)::|^void ", "", name)
    return name.partition("(")[0]


def table(architectures: list[str]) -> Iterator[str]:
    """The report, line by line, in Markdown."""
    yield "| kernel | arch | registers | static shared | stack | spills | tensor cores |"
    yield "|---|---|---|---|---|---|---|"
    disassembler = cuobjdump()
    for architecture in architectures:
        on = kernels_on_tensor_cores(disassembler, architecture) if disassembler else {}
        for kernel in kernels():
            if kernel.architecture == architecture:
                cores = {True: "yes", False: "no", None: "?"}[on.get(kernel.symbol)]
                yield (
                    f"| {short(kernel.symbol)} | {architecture} | {kernel.registers} | "
                    f"{kernel.shared} | {kernel.stack} | {kernel.spilled} | {cores} |"
                )


def main() -> None:
    """Print the table."""
    built = sorted(
        {kernel.architecture for kernel in kernels()}, key=lambda a: int(a[3:].rstrip("af"))
    )
    if not built:
        sys.exit("cuda_resources: no CUDA build under build/; run: UNIVA_BUILD_CUDA=1 make setup")
    wanted = sys.argv[1:] or built
    if unknown := set(wanted) - set(built):
        sys.exit(
            f"cuda_resources: not built for {', '.join(sorted(unknown))}; for {', '.join(built)}"
        )
    for line in table(wanted):
        print(line)


if __name__ == "__main__":
    main()
