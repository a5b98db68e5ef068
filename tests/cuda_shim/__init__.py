"""The CUDA backend on a machine without a GPU: csrc/cuda compiled against the host shim.

`load()` builds the shim, the kernels and the ops' own launch code into one library, registers it as
`torch.ops.univa_shim`, and `as_cpu_backend()` lets the ops of `univa` run it on CPU tensors: calls
that choose the backend "cpu" inside then take the CUDA sources' way, autograd included.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from filelock import FileLock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OPS = [
    f"{op}_{direction}"
    for op in ("contrastive", "correlation_prior", "objective")
    for direction in ("forward", "backward")
]


def _setup_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("univa_setup_for_shim", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _build() -> Path:
    """Compile what has changed since the last time, and link."""
    build = _setup_module()
    torch_folder = build.package_folder("torch")
    compiler = build.find_compiler()
    flags = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
    flags += ["-Wall", "-Wno-unknown-pragmas", "-DUNIVA_CUDA_SHIM"]
    flags += ["-DTORCH_TARGET_VERSION=0x020b000000000000ULL"]
    flags += ["-DUNIVA_FORWARD_BAND=256", "-DUNIVA_COEFFICIENTS=65536", "-DUNIVA_GRID_LIMIT=64"]
    # The shim's headers go before torch's and CUDA's.
    flags += [f"-I{HERE / 'include'}", f"-I{build.SOURCES}", f"-I{build.SOURCES / 'include'}"]
    flags += ["-isystem", str(torch_folder / "include")]
    sources = [build.SOURCES / "arguments.cpp", *HERE.glob("*.cpp"), *HERE.glob("*.cu")]
    sources += [path for path in build.SOURCES.glob("cuda/*.c*") if path.suffix in (".cu", ".cpp")]
    for name in ("stream.cpp", "registration.cpp"):  # the shim has its own
        sources.remove(build.SOURCES / "cuda" / name)
    folder = ROOT / "build" / f"shim-{sysconfig.get_platform()}"
    compilations = [
        build.Compilation(
            source=path,
            object=folder / f"{path.name}.o",
            command=(*compiler, *flags, *(["-x", "c++"] if path.suffix == ".cu" else [])),
            salt=torch.__version__,
        )
        for path in sources
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # another test process may build it, too
        return _bring_up_to_date(build, compilations, folder / "univa_shim.so")


def _bring_up_to_date(build: ModuleType, compilations: list[Any], library: Path) -> Path:
    outdated = [compilation for compilation in compilations if not compilation.is_current()]
    with ThreadPoolExecutor(min(2, build.job_count())) as pool:
        list(pool.map(lambda compilation: compilation.run(), outdated))
    if outdated or not library.is_file():
        fresh = library.with_suffix(f".{os.getpid()}")
        objects = [str(compilation.object) for compilation in compilations]
        lib = build.package_folder("torch") / "lib"
        link = [f"-L{lib}", "-ltorch_cpu", "-o", str(fresh)]
        build.execute([*build.find_compiler(), "-shared", "-fPIC", *objects, *link])
        os.replace(fresh, library)
    return library


@cache
def load() -> ctypes.CDLL:
    """The library, built where that is needed; skips the test where no compiler is there."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler on this machine")
    path = str(_build())
    torch.ops.load_library(path)
    library = ctypes.CDLL(path)
    library.univa_shim_faulty.restype = ctypes.c_char_p
    library.univa_shim_float16.restype = ctypes.c_float
    for name in ("bfloat16_bits", "float16_bits"):
        getattr(library, f"univa_shim_{name}").argtypes = [ctypes.c_float]
    return library


@contextlib.contextmanager
def as_cpu_backend() -> Iterator[ctypes.CDLL]:
    """Inside, the ops of `univa` on CPU tensors run the CUDA sources by the shim."""
    library = load()
    override = torch.library.Library("univa", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # to override is what this is for
        for op in OPS:
            ours = getattr(torch.ops.univa_shim, op).default
            override.impl(op, ours, "CPU", allow_override=True)
    try:
        yield library
    finally:
        override._destroy()
