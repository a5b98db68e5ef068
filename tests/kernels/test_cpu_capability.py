"""The versions of the CPU engine's loops that this processor runs, by UNIVA_CPU_CAPABILITY."""

import os
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
    (line,) = done.stderr.splitlines()
    assert line.startswith("UNIVA_CPU_CAPABILITY=sse9: expected a version that this processor runs")
    assert "(default" in line


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
