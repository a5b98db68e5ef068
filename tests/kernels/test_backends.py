"""The registry: choice, force, environment, and life without the extension."""

import os
import subprocess
import sys

import pytest
import torch

import univa_kernels
from univa_kernels import backends, ops, use_backend, va_supcon_loss


def test_every_backend_says_whether_it_is_usable():
    usable = univa_kernels.available_backends()
    assert set(usable) == {"reference", "cpu", "cuda", "triton"}
    assert usable["reference"] is None
    if not torch.cuda.is_available():
        assert usable["cuda"]


def test_cpu_tensors_take_the_compiled_backend():
    assert ops.LOAD_ERROR is None, "build the extension: make setup"
    assert backends.select(torch.zeros(1)).name == "cpu"


def test_other_devices_fall_back_to_the_reference():
    assert backends.select(torch.zeros(1, device="meta")).name == "reference"


def test_use_backend_as_a_block_and_as_a_call():
    with use_backend("reference"):
        assert backends.select(torch.zeros(1)).name == "reference"
        with use_backend("auto"):
            assert backends.select(torch.zeros(1)).name == "cpu"
        assert backends.select(torch.zeros(1)).name == "reference"
    use_backend("reference")
    try:
        assert backends.select(torch.zeros(1)).name == "reference"
    finally:
        use_backend("auto")
    assert backends.select(torch.zeros(1)).name == "cpu"


def test_a_forced_backend_that_cannot_serve_says_why():
    with use_backend("cuda"), pytest.raises(RuntimeError, match=r"'cuda' cannot serve .* not cpu"):
        va_supcon_loss(torch.zeros(2, 2), torch.zeros(2, 2))


@pytest.mark.parametrize("backend", backends._BACKENDS, ids=lambda backend: backend.name)
def test_compiled_code_can_ask_whether_a_backend_is_usable(backend):
    """torch.compile(fullgraph=True) traces through the choice, whatever the tensors' device."""
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="eager")
    def usable(one):
        return one if backend.unusable() is None else -one

    assert (usable(torch.ones(())) > 0) == (backend.unusable() is None)


def test_triton_is_refused_where_no_compiler_can_build_its_launchers(monkeypatch):
    """At the first call it would fail, where another backend serves."""
    pytest.importorskip("triton")
    monkeypatch.setattr(backends, "_TRITON_INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(backends, "_C_COMPILER", "gcc")
    assert backends._triton_missing() is None
    monkeypatch.setattr(backends, "_C_COMPILER", None)
    assert "C compiler" in backends._triton_missing()


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="'gpu'; one of auto, cpu"):
        use_backend("gpu")
    monkeypatch.setenv("UNIVA_BACKEND", "gpu")
    with pytest.raises(ValueError, match="UNIVA_BACKEND names no backend"):
        backends.select(torch.zeros(1))


def test_environment_forces_and_use_backend_overrides(monkeypatch):
    monkeypatch.setenv("UNIVA_BACKEND", "reference")
    assert backends.select(torch.zeros(1)).name == "reference"
    with use_backend("cpu"):
        assert backends.select(torch.zeros(1)).name == "cpu"


def test_without_the_extension_it_warns_once_and_works():
    code = """
import sys, warnings
sys.modules["univa_kernels._C"] = None  # an import of it fails
import torch, univa_kernels
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        loss = univa_kernels.va_supcon_loss(torch.randn(4, 3), torch.zeros(4, 2))
assert loss.isfinite()
assert len(caught) == 1 and "no compiled extension" in str(caught[0].message), caught
info = univa_kernels.build_info()
assert info["extension"] is False and info["backends"]["cpu"], info
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_build_info_is_complete():
    info = univa_kernels.build_info()
    assert info["univa_kernels"] == univa_kernels.__version__
    assert info["torch"] == torch.__version__
    assert info["extension"] is True
    assert "extension_cuda_architectures" in info
