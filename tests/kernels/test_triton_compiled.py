"""The Triton kernels without a GPU: machine code for three architectures, and torch.compile."""

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import kernel_report

pytest.importorskip("triton")


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
    """What every kernel needs on an architecture at its default configurations."""
    if not kernel_report.cuobjdump().exists():
        pytest.skip("this triton carries no cuobjdump")
    return json.loads(run("-m", "benchmarks.kernel_report", "--compile", str(request.param)))


def test_half_precision_runs_on_tensor_cores(rows):
    for row in rows:
        if row["dtype"] == "bfloat16":
            assert row["instruction"].startswith(kernel_report.TENSOR_CORES[row["arch"]]), row


def test_no_register_is_spilled(rows):
    """None on sm_90; the defaults were chosen there, and leave up to 16 bytes elsewhere."""
    allowed = 0 if rows[0]["arch"] == 90 else 16
    assert [row for row in rows if row["spilled"] > allowed] == []


def test_shared_memory_is_within_the_limit(rows):
    for row in rows:
        assert row["shared"] <= kernel_report.SHARED_LIMIT[row["arch"]], row


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
