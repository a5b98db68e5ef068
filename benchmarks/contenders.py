"""What the contrastive loss is measured beside, each as a careful user of it would write it.

Every contender takes unit embeddings [N, D] and returns a scalar to differentiate. The label space
is valence and arousal [N, 2], or class labels [N] for a library that knows classes only.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

import univa_kernels
from benchmarks import truth

TEMPERATURE, RADIUS, CLASSES = 0.5, 0.1, 32
AUTHORS, PLAIN, COMPILED = "authors' double loop", "vectorised PyTorch", "torch.compile"
SUPCON, NT_XENT, KEOPS = "pml SupConLoss", "pml NTXentLoss", "KeOps LazyTensor"
BACKENDS = ("reference", "cpu", "triton", "cuda")
OURS = "univa_kernels"
OUR_NAMES = tuple(f"{OURS} ({name})" for name in BACKENDS)
# In the order in which they are prepared: who compiles comes last, so that it takes no one's time.
NAMES = (PLAIN, *OUR_NAMES, AUTHORS, SUPCON, NT_XENT, COMPILED, KEOPS)
GIB = float(1 << 30)

Formula = Literal["radius", "two views", "classes", "nt-xent"]


def no_bytes(size: int) -> float:
    """Of who needs no memory worth a prediction."""
    return 0.0


@dataclass(frozen=True)
class Contender:
    """A loss under a name.

    Attributes:
        name: what reports call it.
        loss: of embeddings and coordinates or classes.
        formula: the float64 truth that it has to meet.
        absent: why it cannot run here.
        dims: the D that it is measured at; None for any.
        why_dims: why no others.
        bytes: a prediction of what N rows need.
        python_loop: whether it goes over pairs one by one in Python, so that a set of any size but
            the smallest has to be predicted before it is tried.
        check_sizes: N of the checks. The smaller one has rows without positives, the larger one
            several tiles, of which the last is not full, for who works by tiles.
    """

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    formula: Formula = "radius"
    absent: str | None = None
    dims: tuple[int, ...] | None = None
    why_dims: str = ""
    bytes: Callable[[int], float] = field(default=no_bytes)
    python_loop: bool = False
    check_sizes: tuple[int, ...] = (256,)

    @property
    def by_class(self) -> bool:
        """Whether it takes class labels instead of coordinates."""
        return self.formula in ("classes", "nt-xent")


def authors_loss(
    embeddings: Tensor, coordinates: Tensor, temperature: float, radius: float
) -> Tensor:
    """The authors' algorithm: positives by a double loop over pairs, two equal views stacked.

    Written anew from its description: the mask is filled pair by pair in Python, every feature
    stands in the contrast set twice, the first copies are the anchors, the row maximum is over all
    pairs, and 1e-10 stands inside the logarithm.
    """
    size = len(embeddings)
    mask = torch.zeros(size, size)
    for i in range(size):
        for j in range(size):
            if torch.dist(coordinates[i], coordinates[j]) < radius:
                mask[i, j] = 1.0
    mask = mask.repeat(1, 2).to(embeddings.device)
    both = torch.cat([embeddings, embeddings])
    logits = (embeddings @ both.T).float() / temperature
    logits = logits - logits.max(1, keepdim=True).values.detach()
    others = 1 - torch.eye(size, 2 * size, device=embeddings.device)
    mask = mask * others
    log_chance = logits - ((logits.exp() * others).sum(1, keepdim=True) + 1e-10).log()
    return -((mask * log_chance).sum(1) / mask.sum(1)).mean()


def authors(embeddings: Tensor, coordinates: Tensor) -> Tensor:
    """The authors' algorithm at this benchmark's temperature and radius."""
    return authors_loss(embeddings, coordinates, TEMPERATURE, RADIUS)


def vectorised(
    embeddings: Tensor,
    coordinates: Tensor,
    contrast: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """Logits matrix, mask, logsumexp.

    Args:
        embeddings: [N, D].
        coordinates: [N, 2].
        contrast: [M, D], whose first rows are the embeddings; these alone if None.
        places: their coordinates [M, 2].
    """
    contrast = embeddings if contrast is None else contrast
    places = coordinates if places is None else places
    logits = (embeddings @ contrast.T).float() / TEMPERATURE
    own = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
    # Not the cdist that multiplies matrices: its rounding moves pairs across the radius.
    distance = torch.cdist(coordinates, places, compute_mode="donot_use_mm_for_euclid_dist")
    positive = (distance < RADIUS) & ~own
    count = positive.sum(1)
    log_z = logits.masked_fill(own, -torch.inf).logsumexp(1)
    mean = (logits * positive).sum(1) / count.clamp(min=1)
    some = count > 0
    return torch.where(some, log_z - mean, 0).sum() / some.sum().clamp(min=1)


def keops(embeddings: Tensor, coordinates: Tensor) -> Tensor:
    """Two symbolic reductions: log-sum-exp of other rows, and the sum of each row's positives."""
    from pykeops.torch import LazyTensor

    embeddings = embeddings.float()
    size = len(embeddings)
    place = torch.arange(size, dtype=embeddings.dtype, device=embeddings.device)[:, None]

    def pair(values: Tensor) -> tuple[Any, Any]:
        return LazyTensor(values[:, None, :].contiguous()), LazyTensor(values[None].contiguous())

    (row, column), (here, there), (i, j) = pair(embeddings), pair(coordinates), pair(place)
    other = ((i - j) ** 2 - 0.5).step()
    near = (RADIUS**2 - ((here - there) ** 2).sum(-1)).step() * other
    log_z = ((row | column) / TEMPERATURE).logsumexp(dim=1, weight=other).view(-1)
    # The positives' mean logit is the inner product with the positives' mean: no third reduction.
    ones = torch.ones(size, 1, dtype=embeddings.dtype, device=embeddings.device)
    summed = (near * LazyTensor(torch.cat([embeddings, ones], 1)[None])).sum(1)  # [N, D + 1]
    count = summed[:, -1].detach()
    mean = (embeddings * summed[:, :-1]).sum(1) / TEMPERATURE / count.clamp(min=1)
    some = count > 0
    return torch.where(some, log_z - mean, 0).sum() / some.sum().clamp(min=1)


def ours(embeddings: Tensor, coordinates: Tensor) -> Tensor:
    """This library, on the backend that it chooses."""
    return univa_kernels.va_supcon_loss(
        embeddings, coordinates, temperature=TEMPERATURE, radius=RADIUS
    )


def by_backend(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """This library, on one backend."""

    def loss(embeddings: Tensor, coordinates: Tensor) -> Tensor:
        with univa_kernels.use_backend(name):
            return ours(embeddings, coordinates)

    return loss


def backend_absent(name: str, device: str) -> str | None:
    """Why a backend does not serve tensors of a device here, or None."""
    if reason := univa_kernels.available_backends()[name]:
        return reason
    if name != "reference" and (name == "cpu") != (device == "cpu"):
        return f"does not serve {device} tensors"
    return None


def statically_compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.compile at its fastest: for one shape at a time, and never quietly eager."""

    @cache
    def compiled() -> Any:  # its imports take seconds, so only when it is used
        import torch._dynamo.config as settings

        settings.recompile_limit, settings.fail_on_recompile_limit_hit = 64, True
        return torch.compile(function, dynamic=False)

    def call(*values: Any) -> Tensor:
        result: Tensor = compiled()(*values)
        return result

    return call


def missing(module: str, package: str) -> str | None:
    """Why what is in a package cannot be had, or None."""
    return None if importlib.util.find_spec(module) else f"{package} is not installed"


@cache
def contenders(device: str = "cpu") -> dict[str, Contender]:
    """All contenders, in the order of NAMES."""
    library = missing("pytorch_metric_learning", "pytorch-metric-learning")

    def metric(name: str) -> Callable[[Tensor, Tensor], Tensor]:
        def loss(rows: Tensor, classes: Tensor) -> Tensor:
            value: Tensor = metric_loss(name)(rows, classes)
            return value

        return loss

    every = [
        Contender(PLAIN, vectorised, bytes=lambda n: 22.0 * n * n),
        Contender(COMPILED, statically_compiled(vectorised), bytes=lambda n: 14.0 * n * n),
        Contender(SUPCON, metric("SupConLoss"), "classes", library, bytes=lambda n: 46.0 * n * n),
        Contender(
            NT_XENT,
            metric("NTXentLoss"),
            "nt-xent",
            library,
            # It holds every positive pair against every negative one.
            dims=(128,),
            why_dims="seconds a call for what depends on D hardly at all",
            bytes=lambda n: 16.0 * n**2 * (n / CLASSES - 1) * (1 - 1 / CLASSES) * n,
        ),
        Contender(
            KEOPS,
            keops,
            absent=missing("pykeops", "pykeops"),
            check_sizes=(256, 1100),
            dims=(128,),
            why_dims="compiles its five formulas for every D anew, some 5 s each",
        ),
        Contender(AUTHORS, authors, "two views", bytes=lambda n: 60.0 * n * n, python_loop=True),
    ]
    for name in BACKENDS:
        backend = Contender(
            f"{OURS} ({name})",
            by_backend(name),
            absent=backend_absent(name, device),
            check_sizes=(256, 1100),
        )
        every.append(backend)
    by_name = {contender.name: contender for contender in every}
    return {name: by_name[name] for name in NAMES}


@cache
def metric_loss(name: str) -> Any:
    """A loss of pytorch-metric-learning, at this benchmark's temperature."""
    from pytorch_metric_learning import losses

    return getattr(losses, name)(temperature=TEMPERATURE)


def inputs(
    size: int,
    dim: int,
    seed: int,
    *,
    by_class: bool = False,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Random unit rows and points; about 3 % of the pairs are positive either way."""
    generator = torch.Generator(device).manual_seed(seed)
    rows = F.normalize(torch.randn(size, dim, generator=generator, device=device))
    rows = rows.to(dtype).requires_grad_()
    if by_class:
        return rows, torch.randint(CLASSES, (size,), generator=generator, device=device)
    return rows, torch.rand(size, 2, generator=generator, device=device)


def true_loss(formula: Formula, rows: Tensor, points: Tensor) -> Tensor:
    """The float64 truth of a contender's formula."""
    if formula == "radius":
        positive = truth.positives_by_radius(points, RADIUS)
        return truth.contrastive(rows, positive, TEMPERATURE)
    if formula == "two views":  # an own pair of weight a half, and the constant
        positive = truth.positives_by_radius(points, RADIUS)
        return truth.contrastive(rows, positive, TEMPERATURE, self_weight=0.5) + math.log(2)
    unit = F.normalize(rows)  # the library by classes scales rows to unit length itself
    if formula == "classes":
        return truth.contrastive(unit, truth.positives_by_class(points), TEMPERATURE)
    return truth.nt_xent(unit, points, TEMPERATURE)


def check(
    contender: Contender,
    size: int = 256,
    dim: int = 48,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Hold value and gradient against float64 over all pairs.

    Raises:
        WrongResult: the contender is wrong.
    """
    rows, points = inputs(size, dim, 0, by_class=contender.by_class, device=device, dtype=dtype)
    value = contender.loss(rows, points)
    (grad,) = torch.autograd.grad(value, rows)
    wide = rows.detach().double().requires_grad_()
    true_value = true_loss(contender.formula, wide, points)
    (true_grad,) = torch.autograd.grad(true_value, wide)
    truth.compare((value, grad), (true_value, true_grad), dtype)
