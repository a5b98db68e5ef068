"""The versions of the CPU engine's loops that this processor runs, by UNIVA_CPU_CAPABILITY."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.kernels.cases import Case
from tests.kernels.oracle import HAIR, check

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("default", "avx2", "avx512")


def run(wanted: str) -> subprocess.CompletedProcess[str]:
    """Run this file's `main` with the variable set."""
    return subprocess.run(
        [sys.executable, "-m", "tests.kernels.test_cpu_capability"],
        cwd=ROOT,
        env={**os.environ, "UNIVA_CPU_CAPABILITY": wanted, "TRITON_INTERPRET": ""},
        capture_output=True,
        text=True,
        check=False,
    )


pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")),
    reason="no C++ compiler on this machine",
)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_matches_the_truth(version):
    done = run(version)
    if "expected a version that this processor runs" in done.stderr:
        pytest.skip(f"this processor has no {version}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == f"{version}\n"


def test_an_unknown_version_is_refused_with_what_there_is():
    done = run("sse9")
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    said = "ValueError: UNIVA_CPU_CAPABILITY=sse9: expected a version that this processor runs"
    assert line.startswith(said)
    assert "(default" in line


@pytest.mark.skipif(platform.machine() != "x86_64", reason="versions are x86's")
def test_every_version_is_code_for_its_processor():
    """Registers of 512 bits in one, of 256 in the next, of 128 in the last."""
    objects = [*(ROOT / "build").glob("extension-*/cpu/row_kernels.cpp.o")]
    if not objects or shutil.which("objdump") is None:
        pytest.skip("no object files here, or no objdump")
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(objects[0])]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions = re.split(r"(?m)^[0-9a-f]+ <(\S+)>:$", text)[1:]
    seen = set()
    for name, body in zip(functions[::2], functions[1::2], strict=True):
        widest = 512 if "%zmm" in body else 256 if "%ymm" in body else 128
        found = re.search(r"_(avx512|avx2|default)E", name)
        if found and "sum_row" in name:
            assert widest == {"avx512": 512, "avx2": 256, "default": 128}[found[1]], name
            seen.add(found[1])
    assert seen == {*VERSIONS}


def main() -> None:
    """Hold the engine to the truth over every loop: sums, columns, gaussian, lengths, tiles."""
    import univa_kernels

    info = univa_kernels.build_info()
    if info["extension_error"] is not None:
        sys.exit(info["extension_error"])
    generator = torch.Generator().manual_seed(2)
    for dtype in HAIR:
        for dimensions, options in (
            (1, {"radius": 0.5}),
            (2, {"radius": 0.25, "normalize": True, "self_weight": 0.5}),
            (3, {"radius": 0.25, "sigma": 0.2}),
            (5, {"radius": 0.6, "temperature": 0.02}),
        ):
            rows = torch.randn(301, 17, generator=generator, dtype=torch.float64)
            places = torch.randint(-4, 5, (301, dimensions), generator=generator) / 8
            check(Case(rows, places, {"temperature": 0.3, **options}), "cpu", dtype)
            bank = {"contrast_embeddings": rows[:150] * 2, "contrast_coordinates": places[:150]}
            learned = {"temperature": torch.tensor(0.3, dtype=torch.float64)}
            options.pop("temperature", None)
            check(Case(rows[:90], places[:90], options, bank | learned), "cpu", dtype)
    print(info["extension_cpu_capability"])


if __name__ == "__main__":
    main()
