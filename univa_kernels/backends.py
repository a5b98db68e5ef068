"""Which implementation serves a call: a registry, automatic choice, and a way to force one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from univa_kernels import ops, reference

__all__ = ["Backend", "available_backends", "build_info", "select", "use_backend"]

# Found out here: torch.compile traces through the choice of a backend, and cannot trace these.
_CUDA_ARCHITECTURES = ops.extension_build_info().get("cuda_architectures")
_CUDA_LEFT_OUT = ops.extension_build_info().get("cuda_left_out")
# Triton builds with it what launches its kernels (triton/runtime/build.py).
_C_COMPILER = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")

_FLOATING = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


@dataclass(frozen=True)
class Backend:
    """One implementation of the losses.

    Attributes:
        name: what `use_backend` and UNIVA_BACKEND call it.
        devices: device types it serves; None for all.
        dtypes: dtypes of embeddings and predictions it serves.
        unusable: says why it cannot run on this machine, or returns None.
        contrastive: as `univa_kernels.reference.contrastive`.
        correlation_prior: as `univa_kernels.reference.correlation_prior`.
        tied_contrastive: as `univa_kernels.reference.tied_contrastive`.
        objective: as `univa_kernels.reference.objective`.
        automatic: whether the automatic choice may take it for a call with this tensor.
    """

    name: str
    devices: frozenset[str] | None
    dtypes: frozenset[torch.dtype]
    unusable: Callable[[], str | None]
    contrastive: Callable[..., tuple[Tensor, Tensor]]
    correlation_prior: Callable[..., Tensor]
    tied_contrastive: Callable[..., tuple[Tensor, Tensor]]
    objective: Callable[..., tuple[Tensor, ...]]
    automatic: Callable[[Tensor], bool] = lambda tensor: True

    def refuses(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why a call on `device` in `dtype` cannot be served, or None."""
        if self.devices is not None and device.type not in self.devices:
            return f"it serves {'/'.join(sorted(self.devices))} tensors, not {device.type}"
        if dtype not in self.dtypes:
            return f"it does not serve {dtype}"
        return self.unusable()


def _extension_missing() -> str | None:
    return None if ops.LOAD_ERROR is None else f"no compiled extension: {ops.LOAD_ERROR}"


def _cuda_missing() -> str | None:
    if missing := _extension_missing():
        return missing
    if not _CUDA_ARCHITECTURES:
        return f"the extension was built without CUDA: {_CUDA_LEFT_OUT}"
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (it comes with torch's CUDA builds on Linux)"
    if _TRITON_INTERPRETED:
        return None
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if torch.version.cuda is None:
        return "it is for NVIDIA GPUs"
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        return f"compute capability {major}.{minor} is below 8.0"
    return None if _C_COMPILER else "triton needs a C compiler: gcc, clang, or what CC names"


# The kernels are imported, and triton with them, at the first call.
def _triton_contrastive(*arguments: Any) -> tuple[Tensor, Tensor]:
    from univa_kernels._triton import ops as triton_ops

    return triton_ops.contrastive(*arguments)


def _triton_tied_contrastive(*arguments: Any) -> tuple[Tensor, Tensor]:
    from univa_kernels._triton import ops as triton_ops

    return triton_ops.tied_contrastive(*arguments)


def _triton_objective(*arguments: Any) -> tuple[Tensor, ...]:
    from univa_kernels._triton import ops as triton_ops

    return triton_ops.objective(*arguments)


def _worth_triton(tensor: Tensor) -> bool:
    return tensor.shape[0] >= TRITON_ROWS


TRITON_ROWS = 4096
"""From so many rows on, `triton` is the automatic choice on a GPU. A guess: not measured yet."""

# Triton reads the variable when its kernels are defined; CPU tensors are for tests.
_TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# In order of preference.
_BACKENDS = (
    Backend(
        name="triton",
        devices=frozenset({"cpu"} if _TRITON_INTERPRETED else {"cuda"}),
        dtypes=_FLOATING - {torch.float64},
        unusable=_triton_missing,
        contrastive=_triton_contrastive,
        correlation_prior=reference.correlation_prior,
        tied_contrastive=_triton_tied_contrastive,
        objective=_triton_objective,
        automatic=lambda tensor: not _TRITON_INTERPRETED and _worth_triton(tensor),
    ),
    Backend(
        name="cuda",
        devices=frozenset({"cuda"}),
        dtypes=_FLOATING,
        unusable=_cuda_missing,
        contrastive=ops.contrastive,
        correlation_prior=ops.correlation_prior,
        tied_contrastive=ops.tied_contrastive,
        objective=ops.objective,
    ),
    Backend(
        name="cpu",
        devices=frozenset({"cpu"}),
        dtypes=_FLOATING,
        unusable=_extension_missing,
        contrastive=ops.contrastive,
        correlation_prior=ops.correlation_prior,
        tied_contrastive=ops.tied_contrastive,
        objective=ops.objective,
    ),
    Backend(
        name="reference",
        devices=None,
        dtypes=_FLOATING,
        unusable=lambda: None,
        contrastive=reference.contrastive,
        correlation_prior=reference.correlation_prior,
        tied_contrastive=reference.tied_contrastive,
        objective=reference.objective,
    ),
)
_BY_NAME = {backend.name: backend for backend in _BACKENDS}
_AUTOMATIC = "auto"


def _known(name: str, source: str) -> str:
    if name not in (_AUTOMATIC, *_BY_NAME):
        raise ValueError(
            f"{source} names no backend: {name!r}; one of auto, {', '.join(sorted(_BY_NAME))}"
        )
    return name


_forced = _AUTOMATIC  # by use_backend; the environment is asked only when this is "auto"
_warned = False


class use_backend:
    """Force a backend, for the process from now on or inside a `with` block.

    A forced backend that cannot serve a call raises RuntimeError saying why. The environment
    variable UNIVA_BACKEND does the same for a whole process; this takes precedence over it.

    Args:
        name: "reference", "cpu", "cuda", "triton", or "auto" to choose by device, dtype and size
            again.

    Raises:
        ValueError: no such backend.

    Example:
        >>> import torch, univa_kernels
        >>> with univa_kernels.use_backend("reference"):
        ...     loss = univa_kernels.va_supcon_loss(torch.eye(4), torch.zeros(4, 2))
    """

    def __init__(self, name: str) -> None:
        global _forced
        self._before = _forced
        _forced = _known(name, "use_backend")

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _forced
        _forced = self._before


def available_backends() -> dict[str, str | None]:
    """Every backend by name, with None when it is usable here or else the reason why not.

    Example:
        >>> import univa_kernels
        >>> univa_kernels.available_backends()["reference"] is None
        True
    """
    return {backend.name: backend.unusable() for backend in _BACKENDS}


def build_info() -> dict[str, Any]:
    """What is installed: versions, whether and how the extension was built, usable backends.

    Example:
        >>> import univa_kernels
        >>> sorted(univa_kernels.build_info())[0]
        'backends'
    """
    from univa_kernels import __version__

    return {
        "univa_kernels": __version__,
        "torch": torch.__version__,
        "extension": ops.LOAD_ERROR is None,
        "extension_error": ops.LOAD_ERROR,
        **{f"extension_{key}": value for key, value in ops.extension_build_info().items()},
        "backends": available_backends(),
    }


def refusal(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a backend cannot serve embeddings on `device` in `dtype`, or None."""
    return _BY_NAME[name].refuses(device, dtype)


def select(tensor: Tensor) -> Backend:
    """The backend that serves a call whose embeddings or predictions are `tensor`.

    Raises:
        RuntimeError: a forced backend cannot serve it.
        ValueError: UNIVA_BACKEND names no backend.
    """
    name = _forced
    if name == _AUTOMATIC:
        name = _known(os.environ.get("UNIVA_BACKEND") or _AUTOMATIC, "UNIVA_BACKEND")
    if name != _AUTOMATIC:
        reason = refusal(name, tensor.device, tensor.dtype)
        if reason:
            raise RuntimeError(f"univa_kernels: backend {name!r} cannot serve this call: {reason}")
        return _BY_NAME[name]
    for backend in _BACKENDS:
        if backend.automatic(tensor) and backend.refuses(tensor.device, tensor.dtype) is None:
            if backend.name == "reference":
                _warn_once()
            return backend
    raise RuntimeError(f"univa_kernels: no backend serves {tensor.dtype} on {tensor.device}")


def _warn_once() -> None:
    """Say once that the slow path serves because the extension is missing."""
    global _warned
    if _warned or ops.LOAD_ERROR is None:
        return
    _warned = True
    warnings.warn(
        f"univa_kernels has no compiled extension ({ops.LOAD_ERROR}); the losses run on the slower "
        "PyTorch reference path. Reinstall with a C++ compiler at hand, or silence this with "
        "UNIVA_BACKEND=reference.",
        RuntimeWarning,
        stacklevel=4,
    )
