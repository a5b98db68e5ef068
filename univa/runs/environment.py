"""What a run is made with: versions, machine, device."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from univa._version import __version__

__all__ = ["describe_environment"]

_PACKAGES = ("transformers", "safetensors", "torchmetrics", "numpy")


def describe_environment(device: torch.device) -> dict[str, str]:
    """Versions, machine and device, in words; nothing that names the host or the user.

    Args:
        device: where the run computes.
    """
    found = {
        "univa": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["system"] = f"{platform.system()} {platform.machine()}"
    found["processor"] = _processor()
    found["cores"] = str(os.cpu_count() or 1)
    found["threads"] = str(torch.get_num_threads())
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
