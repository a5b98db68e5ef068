"""The Triton kernels without a GPU: machine code for three architectures, and torch.compile."""

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import kernel_report

pytest.importorskip("triton")
configs = pytest.importorskip("univa_kernels._triton.configs")


def run(*arguments: str) -> str:
    """In a process that compiles kernels instead of interpreting them."""
    environment = {**os.environ}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module", params=[80, 90, 100])
def rows(request):
    """What a cross-section of kernels, dtypes and options needs, at default configurations.

    `make kernel-report` compiles all of them.
    """
    if not kernel_report.cuobjdump().exists():
        pytest.skip("this triton carries no cuobjdump")
    arch = str(request.param)
    rows = json.loads(run("-m", "benchmarks.kernel_report", "--compile", arch, "--few"))
    assert {row["kernel"] for row in rows} >= {*configs.KERNELS, "merge", "boxes"}
    assert {row["product"] for row in rows} == {*configs.KINDS, "none"}
    return rows


def test_every_row_keeps_what_the_report_holds_it_to(rows):
    """Tensor cores by architecture (none for IEEE float32), no spills, shared memory."""
    assert [line for row in rows if (line := kernel_report.complaint(row))] == []


def test_torch_compile_traces_down_to_the_kernels():
    assert run("-m", "tests.kernels.triton_compile").strip() == "traced"


def test_tf32_follows_torch():
    from univa_kernels._triton.problem import dot_precision

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert dot_precision(torch.float32) == "ieee"
        torch.set_float32_matmul_precision("high")
        assert dot_precision(torch.float32) == "tf32"
        assert dot_precision(torch.bfloat16) == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)
