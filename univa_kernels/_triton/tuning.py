"""Timing of the candidates on the GPU in hand; see `univa_kernels.triton_tune`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from triton import TritonError

from univa_kernels._triton import cache, choice, configs, problem
from univa_kernels._triton.configs import Config
from univa_kernels._triton.run_backward import backward
from univa_kernels._triton.run_forward import forward

Timer = Callable[[Callable[[], Any]], float]


def tune(
    rows: int,
    dim: int,
    dtype: torch.dtype,
    device: torch.device,
    timer: Timer,
    show: Callable[[str], None],
) -> dict[str, Config]:
    """Times the candidates of each kernel that such a call launches; keeps and returns the best."""
    gpu = cache.gpu_name(device)
    assert gpu is not None
    kind = configs.kind(dtype, problem.dot_precision(dtype))
    capability = configs.capability_of(device)
    calls = _calls(min(rows, configs.ROW_BUCKETS[-1]), dim, dtype, device)
    best: dict[str, Config] = {}
    for kernel, call in calls.items():
        times: dict[Config, float] = {}
        for config in configs.candidates(kernel, kind, dim, capability):
            with choice.forced(kernel, config):
                try:
                    times[config] = timer(call)
                except (TritonError, RuntimeError) as error:  # of resources, ptxas, the compiler
                    show(f"{kernel}: {config}: does not run ({str(error).splitlines()[0]})")
                    continue
            show(f"{kernel}: {config}: {times[config]:.3f} ms")
        # NaN compares with nothing, and the default comes first among equals.
        measured = {config: time for config, time in times.items() if not math.isnan(time)}
        if not measured:
            raise RuntimeError(f"univa_kernels: triton_tune: no configuration of {kernel} runs")
        winner = min(measured, key=lambda config: measured[config])
        best[configs.key(kernel, kind, dim, rows)] = winner
        show(f"{kernel}: takes {winner}")
    path = cache.cache_file(gpu)
    try:
        cache.write_cache(path, gpu, {**cache.read_cache(path, gpu), **best})
    except OSError as error:
        show(f"{path} cannot be written ({error.strerror}): the defaults serve on")
        return best
    cache.forget()
    show(f"kept in {path}")
    return best


def _calls(
    rows: int, dim: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Callable[[], Any]]:
    """What to time for each kernel, on random unit rows."""
    generator = torch.Generator(device).manual_seed(0)
    embeddings = torch.randn(1, rows, dim, generator=generator, device=device)
    embeddings = torch.nn.functional.normalize(embeddings, dim=2).to(dtype)
    coordinates = torch.randn(1, rows, 2, generator=generator, device=device)
    options = (0.5, 0.1, 0.0, 0.0, 0, False, False)
    made = problem.make(
        embeddings, None, coordinates, None, None, None, None, *options, problem.direct
    )
    losses, stats = forward(made)
    grad = torch.ones_like(losses)
    gradient = "gradient_rows" if dim <= configs.RESIDENT_DEPTH else "gradient_block"
    return {
        "forward": lambda: forward(made),
        gradient: lambda: backward(made, grad, stats, True, False),
    }


def milliseconds(call: Callable[[], Any]) -> float:
    """Median time of ten calls on the device, after three."""
    for _ in range(3):
        call()
    times: list[float] = []
    event: Any = torch.cuda.Event  # torch's has no types
    for _ in range(10):
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)
