"""Where a small batch's time goes: products, operators, autograd, Python.

    python -m benchmarks.overhead

UniVALoss, B = 32, D = 768, three modalities, medians in microseconds of one warm loop each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.objective import objective_inputs, vectorised_objective
from univa_kernels import UniVALoss

_OPTIONS = (0.7, 0.1, 0.0, 0.45, 0.5, True, False, "kl", "norm")


def microseconds(call: Callable[[], object], rounds: int = 1000) -> float:
    """Median of `rounds` calls."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return 1e6 * statistics.median(taken[rounds // 10 :])


def main() -> None:
    """Print the table."""
    logits, labels, embeddings, coordinates, similarity = objective_inputs(0)
    leaves = (logits, similarity, *embeddings.values())
    rows = [value.detach() for value in embeddings.values()]
    points, weights = list(coordinates.values()), [1.0] * 3
    scores, matrix = logits.detach(), similarity.detach()
    tile, grad = torch.zeros(32, 32), torch.zeros(32, 768)
    forward = torch.ops.univa.objective_forward.default
    backward = torch.ops.univa.objective_backward.default
    loss = UniVALoss(alpha=0.45, prior="norm")

    def products() -> None:
        for each in rows:
            torch.mm(each, each.T, out=tile)
            torch.mm(each, each.T, out=tile)
            torch.mm(tile, each, out=grad)

    def step(total: Callable[[], torch.Tensor]) -> None:
        for leaf in leaves:
            leaf.grad = None
        total().backward()

    with torch.no_grad():
        terms, stats = forward(scores, labels, matrix, rows, points, weights, None, *_OPTIONS)
        upstream = torch.zeros_like(terms)
        upstream[0] = 1
        table = {
            "the nine matrix products alone": microseconds(products),
            "operator, forward": microseconds(
                lambda: forward(scores, labels, matrix, rows, points, weights, None, *_OPTIONS)
            ),
            "operator, backward": microseconds(
                lambda: backward(
                    upstream, scores, labels, matrix, rows, points, None, stats, weights, *_OPTIONS
                )
            ),
        }
    inputs = (logits, labels, embeddings, coordinates, similarity)

    def through_registered_operator() -> torch.Tensor:
        terms: torch.Tensor = torch.ops.univa.objective_forward(
            logits,
            labels,
            similarity,
            list(embeddings.values()),
            points,
            weights,
            None,
            *_OPTIONS,
        )[0]
        return terms[0]

    table["UniVALoss, forward"] = microseconds(lambda: loss(*inputs))
    table["UniVALoss, forward + backward"] = microseconds(lambda: step(lambda: loss(*inputs).total))
    table["the registered operator's autograd, forward + backward"] = microseconds(
        lambda: step(through_registered_operator)
    )
    table["vectorised PyTorch, forward + backward"] = microseconds(
        lambda: step(lambda: vectorised_objective(*inputs)), 300
    )
    print("| part | us |\n|---|---|")
    for name, value in table.items():
        print(f"| {name} | {value:.0f} |")


if __name__ == "__main__":
    main()
