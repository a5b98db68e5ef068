"""Random calls of the contrastive loss: hypothesis strategies and their evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import univa_kernels

# What `make test` can run here; test_gpu.py runs the same checks for "cuda".
BACKENDS = [name for name in ("reference", "cpu") if not univa_kernels.available_backends()[name]]


@dataclass
class Case:
    """Float64 inputs of one call; `call` converts and runs them."""

    embeddings: Tensor
    coordinates: Tensor
    options: dict[str, Any]
    extra: dict[str, Tensor] = field(default_factory=dict)

    def inputs(self, dtype: torch.dtype, device: str = "cpu") -> dict[str, Tensor]:
        """Leaves that need gradients: anchors, contrast set and temperature, where they are."""
        leaves = {"embeddings": self.embeddings.to(device, dtype)}
        if "contrast_embeddings" in self.extra:
            leaves["contrast_embeddings"] = self.extra["contrast_embeddings"].to(device, dtype)
        if "temperature" in self.extra:
            kept = torch.promote_types(dtype, torch.float32)
            leaves["temperature"] = self.extra["temperature"].to(device, kept)
        return {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}

    def call(self, function: Any, leaves: dict[str, Tensor]) -> Any:
        """Run `function(embeddings, coordinates, ...)` on `leaves`."""
        device = leaves["embeddings"].device
        extra = {name: value.to(device) for name, value in self.extra.items()}
        return function(
            coordinates=self.coordinates.to(device), **{**self.options, **extra, **leaves}
        )


@st.composite
def cases(draw: st.DrawFn, *, min_n: int = 1, max_n: int = 40, max_d: int = 24) -> Case:
    """Any combination of options, sizes that are no multiple of anything, ties in coordinates."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    n, d, p = draw(st.integers(min_n, max_n)), draw(st.integers(1, max_d)), draw(st.integers(1, 8))
    scale = draw(st.sampled_from([0.1, 1.0, 3.0]))
    coordinate_dtype = draw(st.sampled_from([torch.float32, torch.float64]))

    def coordinates(rows: int) -> Tensor:
        # On a grid, so that pairs at exactly the radius occur.
        return torch.randint(-4, 5, (rows, p), generator=generator).to(coordinate_dtype) / 8

    options: dict[str, Any] = {
        "temperature": draw(st.sampled_from([0.005, 0.07, 0.7, 100.0])),
        "radius": draw(st.sampled_from([0.0, 0.125, 0.25, 0.3, 0.5, 10.0])),
        "self_weight": draw(st.sampled_from([0.0, 0.5, 1.0])),
    }
    if draw(st.booleans()):
        options["sigma"] = draw(st.sampled_from([0.1, 0.5]))
    if draw(st.booleans()):
        options["normalize"] = True
    extra: dict[str, Tensor] = {}
    if draw(st.booleans()):
        extra["temperature"] = torch.tensor(options.pop("temperature"), dtype=torch.float64)
    m = n
    if draw(st.booleans()):
        m = draw(st.integers(min_n, max_n))
        extra["contrast_embeddings"] = scale * torch.randn(
            m, d, generator=generator, dtype=torch.float64
        )
        extra["contrast_coordinates"] = coordinates(m)
        options["self_offset"] = draw(st.one_of(st.none(), st.integers(-n, m)))
    if draw(st.booleans()):
        options["group_pairs"] = draw(st.sampled_from(["positive", "exclude"]))
        extra["groups"] = torch.randint(0, 5, (n,), generator=generator)
        if "contrast_embeddings" in extra:
            extra["contrast_groups"] = torch.randint(0, 5, (m,), generator=generator)
    embeddings = scale * torch.randn(n, d, generator=generator, dtype=torch.float64)
    return Case(embeddings, coordinates(n), options, extra)


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Largest deviation over the largest magnitude of the truth; NaN counts as infinite."""
    scale = truth.abs().amax().item() if truth.numel() else 0.0
    error = (value.double().cpu() - truth).abs()
    if not error.numel():
        return 0.0
    worst = error.amax().item()
    return float("inf") if worst != worst else worst / max(scale, 1e-30)
