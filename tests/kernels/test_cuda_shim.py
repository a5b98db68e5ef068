"""The host shim of the CUDA execution model sees what is wrong, and lets pass what is right."""

import pytest
import torch

from tests import cuda_shim
from univa_kernels import va_supcon_loss

# In the order of faults.cu.
FAULTS = {
    "half of the block at a barrier": "divergent barrier: thread 0 waits at .* 32 of 64 have ended",
    "a block at two barriers": "divergent barrier: thread 0 at line .*, thread 32 at",
    "half of a warp in a shuffle": r"divergent barrier: thread 0 waits at .*\(warp\)",
    "an index one too far": r"out of bounds: \[64, 65\) of a shared array of 64",
    "more than was asked for": "out of bounds: bytes .* of shared memory, of which there are 256",
    "a read of what nobody wrote": "read of uninitialised shared memory",
    "a read with no barrier after the write": "race: read of shared memory",
    "two writes with no barrier between": "race: write to shared memory",
    "a copy that is not waited for": "read of uninitialised shared memory",
    "a copy with no barrier after it": "race: read of shared memory",
    "a copy from an odd address": "cp.async of 16 bytes",
    "a named barrier that too few reach": r"divergent barrier: .*\(named\)",
    "more shared memory than there is": "more dynamic shared memory than a block can have",
    "a block that is no whole warps": "blocks of whole warps",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_sees(fault):
    which = 1 + list(FAULTS).index(fault)
    said = cuda_shim.load().univa_shim_faulty(which).decode()
    with pytest.raises(RuntimeError, match=FAULTS[fault]):
        raise RuntimeError(said)


def test_lets_pass_what_is_right():
    assert cuda_shim.load().univa_shim_faulty(0) == b""


def test_rounds_half_types_as_torch_does():
    shim = cuda_shim.load()
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2000, generator=generator) * 10 ** torch.randint(-9, 6, (2000,))
    special = [0.0, -0.0, 65504.0, 65519.9, 65520.0, 6e-8, 2.98e-8, 1.0, float("inf"), 2.0**-14]
    values = torch.cat((values, torch.tensor(special), -torch.tensor(special)))
    for name, dtype in (("bfloat16_bits", torch.bfloat16), ("float16_bits", torch.float16)):
        expected = values.to(dtype).view(torch.int16).tolist()
        convert = getattr(shim, f"univa_shim_{name}")
        got = [convert(value) for value in values.tolist()]
        assert got == [bits & 0xFFFF for bits in expected]
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    back = torch.tensor([shim.univa_shim_float16(b & 0xFFFF) for b in bits.tolist()])
    torch.testing.assert_close(
        back, bits.view(torch.float16).float(), rtol=0, atol=0, equal_nan=True
    )


def test_serves_only_inside_its_block():
    rows, va = torch.randn(5, 3), torch.rand(5, 2)
    with cuda_shim.as_cpu_backend() as shim:
        before = shim.univa_shim_launches()
        inside = va_supcon_loss(rows, va)
        count = shim.univa_shim_launches()
        assert count > before
    torch.testing.assert_close(va_supcon_loss(rows, va), inside)
    assert shim.univa_shim_launches() == count
