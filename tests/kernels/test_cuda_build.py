"""What the compiler says of the CUDA kernels, and the plan that they are launched by."""

import re

import pytest
import torch

from benchmarks import cuda_resources
from univa_kernels import ops


@pytest.fixture(scope="module")
def built():
    """The CUDA extension's module; skips where it was built without nvcc, or not here."""
    if not ops.extension_build_info().get("cuda_architectures"):
        pytest.skip("the extension was built without CUDA")
    if not cuda_resources.kernels():
        pytest.skip("the extension was not built in this folder")
    return ops._C


def test_no_kernel_spills_on_any_architecture(built):
    kernels = cuda_resources.kernels()
    wanted = set(built.build_info()["cuda_architectures"])
    assert {kernel.architecture for kernel in kernels} >= wanted
    for kernel in kernels:
        name = f"{cuda_resources.short(kernel.symbol)} for {kernel.architecture}"
        assert kernel.spilled == 0, name
        assert kernel.stack == 0, f"{name} keeps an array in local memory"
        assert kernel.registers * cuda_resources.THREADS <= cuda_resources.REGISTERS, name
        # Plans, and the tiles' static_asserts, leave this free beside dynamic shared memory.
        assert kernel.shared <= plan("float32", 8, 8)["static_bytes_reserved"], name


def test_tensor_cores_where_they_should_be(built):
    disassembler = cuda_resources.cuobjdump()
    if disassembler is None:
        pytest.skip("no cuobjdump: neither CUDA's nor Triton's")
    architectures = built.build_info()["cuda_architectures"]
    architecture = "sm_90" if "sm_90" in architectures else architectures[0]
    on = cuda_resources.kernels_on_tensor_cores(disassembler, architecture)
    tiled = {name: yes for name, yes in on.items() if "TensorCores" in name or "PlainFma" in name}
    # Forward and coefficients in bfloat16, float16 and TF32; two products in TF32, split or not.
    assert sum("TensorCores" in name for name in tiled) == 3 + 3 + 2 * 3
    for name, yes in tiled.items():
        assert yes == ("TensorCores" in name), name


def plan(dtype, rows, depth, labels=6, **options):
    return ops._C.launch_plan(dtype, rows, depth, labels, **options)


def test_training_batches_are_one_launch(built):
    for rows in (1, 12, 22, 32, 48, 256):
        found = plan("float32", rows, 768)
        assert found["one_launch"], rows
        assert found["blocks"] == 3 * -(-rows // 8) + 1
        assert 8 * 768 * 4 <= found["shared_bytes"] <= 99 * 1024


def test_the_plan_keeps_to_its_table_and_to_the_device(built):
    for row in built.launch_table():
        # At its limits it fits the largest GPUs; one beyond is not taken.
        at = plan(row["dtype"], row["rows"], row["depth"])
        assert at["one_launch"], row
        assert at["shared_bytes"] <= 163 * 1024
        assert not plan(row["dtype"], row["rows"] + 1, row["depth"])["one_launch"]
        assert not plan(row["dtype"], row["rows"], row["depth"] + 1)["one_launch"]
        assert not plan(row["dtype"], 8, 8, row["labels"] + 1)["one_launch"]
        many = {"modalities": row["modalities"] + 1}
        assert not plan(row["dtype"], 8, 8, **many)["one_launch"]
        assert not plan(row["dtype"], 8, 4096, shared_limit=48 * 1024)["one_launch"]
    # 99 KiB is what a block of compute capability 8.6 has, its kernel's own arrays included.
    asked = plan("float32", 64, 3072)["shared_bytes"]
    assert asked == 99 * 1024
    reserved = plan("float32", 64, 3072)["static_bytes_reserved"]
    assert not plan("float32", 64, 3072, shared_limit=asked + reserved - 1)["one_launch"]
    assert plan("float32", 64, 3072, shared_limit=asked + reserved)["one_launch"]
    with pytest.raises(ValueError, match="dtype must be float32"):
        plan("int8", 8, 8)


def test_torchs_setting_decides_on_tensor_float32(built):
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        for allowed in (True, False):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            assert built.tensor_float32_allowed() is allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_reads_what_ptxas_says(tmp_path):
    folder = tmp_path / "extension-here" / "cuda"
    folder.mkdir(parents=True)
    (folder / "some.cu.ptxas").write_text(
        "ptxas info    : Compiling entry function '_Z4someIfE' for 'sm_90'\n"
        "ptxas info    : Function properties for _Z4someIfE\n"
        "    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 80 registers, used 1 barriers, 256 bytes smem\n"
        "ptxas info    : Compile time = 5.000 ms\n"
    )
    (kernel,) = cuda_resources.kernels(tmp_path)
    assert kernel == cuda_resources.Kernel(
        symbol="_Z4someIfE", architecture="sm_90", registers=80, stack=8, spilled=16, shared=256
    )
    assert re.fullmatch(r"some<float>|_Z4someIfE", cuda_resources.short("_Z4someIfE"))
