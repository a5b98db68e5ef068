"""The file per GPU that holds the tile sizes which tuning found there."""

from __future__ import annotations

import functools
import json
import os
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from univa_kernels._triton import configs
from univa_kernels._triton.configs import Config
from univa_kernels._triton.pairs import INTERPRETED

VERSION = 1
"""Of the file's layout."""


def cache_file(gpu: str) -> Path:
    """File of a GPU: under UNIVA_CACHE_DIR, ~/.cache/univa_kernels or, without a home, /tmp."""
    if root := os.environ.get("UNIVA_CACHE_DIR"):
        folder = Path(root)
    else:
        try:
            folder = Path.home() / ".cache" / "univa_kernels"
        except RuntimeError:  # a user without a home folder, as in a container
            folder = Path(tempfile.gettempdir()) / f"univa_kernels-{os.getuid()}"
    name = "".join(c if c.isalnum() else "-" for c in gpu).lower()
    return folder / f"triton-{name}.json"


def gpu_name(device: torch.device) -> str | None:
    """Name of the GPU, "interpreter" in Triton's interpreter, None where there is neither."""
    if INTERPRETED:
        return "interpreter"
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(device)


def read_cache(path: Path, gpu: str) -> dict[str, Config]:
    """The entries of a GPU's file; none, and a warning, where it is not one of ours."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        _warn(path, f"cannot be read ({error})")
        return {}
    try:
        content = json.loads(text)
        if content["version"] != VERSION or content["gpu"] != gpu:
            _warn(path, f"is not for {gpu} in this version")
            return {}
        return {str(name): Config(**entry) for name, entry in content["entries"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        _warn(path, "is damaged")
        return {}


def write_cache(path: Path, gpu: str, entries: dict[str, Config]) -> None:
    """Replace a file as a whole, so that no reader sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    content = {
        "version": VERSION,
        "gpu": gpu,
        "entries": {name: asdict(config) for name, config in sorted(entries.items())},
    }
    try:
        scratch.write_text(json.dumps(content, indent=1) + "\n")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def found(kernel: str, kind: str, depth: int, rows: int, device: torch.device) -> Config | None:
    """What tuning found for a call on this GPU, if it is one of the candidates still."""
    gpu = gpu_name(device)
    if gpu is None:
        return None
    path = cache_file(gpu)
    config = _entries(path, gpu).get(configs.key(kernel, kind, depth, rows))
    if config is None:
        return None
    for candidate in configs.candidates(kernel, kind, depth, configs.capability_of(device)):
        if candidate == config:
            return candidate  # not the file's own: 128.0 equals 128 and is no tile size
    _warn(path, "holds tile sizes that this version does not know")
    return None


@functools.lru_cache
def _entries(path: Path, gpu: str) -> dict[str, Config]:
    return read_cache(path, gpu)


def forget() -> None:
    """Read the files again at the next call."""
    _entries.cache_clear()


@functools.lru_cache
def _warn(path: Path, what: str) -> None:
    """Once for each file and complaint."""
    warnings.warn(
        f"univa_kernels: {path} {what}; the default tile sizes serve. Delete it, or write it anew "
        "with univa_kernels.triton_tune().",
        RuntimeWarning,
        stacklevel=2,
    )
