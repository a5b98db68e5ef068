"""What test_distributed.py runs on several ranks: `python -m tests.kernels.distributed_ranks DIR`.

Two groups of processes, of 2 and of 3 ranks, run at the same time and leave DIR/<world>_<rank>.pt.
They are forked from one process that has imported torch and run nothing, which saves the imports.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from univa_kernels import UniVALoss, UniVALossOutput, VASupConLoss, use_backend
from univa_kernels.distributed import (
    gather_rows,
    row_counts,
    sum_over_ranks,
    va_supcon_loss_distributed,
)
from univa_kernels.losses.cross_batch_memory import CrossBatchMemory

WORLDS = (2, 3)
EVEN, RAGGED, EMPTY = (4, 4, 4), (5, 2, 6), (7, 0, 5)


@dataclass
class Scenario:
    """A call by its options; `sizes` are the rows of each rank (the first 2 for 2 ranks)."""

    sizes: tuple[int, ...] = RAGGED
    options: dict[str, Any] = field(default_factory=dict)
    extras: tuple[str, ...] = ()  # of: groups, weights, views, memory, bank, temperature, sizes
    apart: bool = False  # every row in its own place: no positives


SCENARIOS = {
    "even": Scenario(EVEN),
    "ragged": Scenario(),
    "empty": Scenario(EMPTY),
    "nothing": Scenario((0, 0, 0)),
    "one each": Scenario((1, 1, 1)),
    "apart": Scenario(apart=True),
    "zero": Scenario(options={"no_positives": "zero"}),
    "sum": Scenario(options={"reduction": "sum"}),
    "none": Scenario(options={"reduction": "none"}),
    "error": Scenario(options={"no_positives": "error", "radius": 9.0}),
    "gaussian": Scenario(options={"sigma": 0.3, "self_weight": 0.5}),
    "normalized": Scenario(EMPTY, options={"normalize": True}),
    "sizes": Scenario(extras=("sizes",)),
    "groups": Scenario(extras=("groups",)),
    "excluded": Scenario(options={"group_pairs": "exclude"}, extras=("groups",)),
    "weights": Scenario(EMPTY, extras=("weights",)),
    "weights zero": Scenario(options={"no_positives": "zero"}, extras=("weights",)),
    "temperature": Scenario(EMPTY, extras=("temperature",)),
    "views": Scenario(EMPTY, extras=("views", "groups", "weights", "sizes")),
    "views none": Scenario(options={"reduction": "none"}, extras=("views",)),
    "first views": Scenario(options={"anchor_views": "one"}, extras=("views", "weights")),
    "memory": Scenario(EMPTY, options={"self_weight": 0.5}, extras=("memory", "groups")),
    "bank": Scenario(extras=("bank",)),
}

OBJECTIVE: dict[str, Any] = {
    "temperature": 0.5,
    "radius": 0.3,
    "alpha": 0.4,
    "prior": "norm",
    "modality_weights": {"text": 3.0},
}


def make_model() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(6, 4, dtype=torch.float64)


def make_batch(scenario: Scenario, world: int) -> list[dict[str, Tensor]]:
    """The rows of each rank."""
    generator = torch.Generator().manual_seed(17)
    ranks = []
    for size in scenario.sizes[:world]:
        shape = (size, 2, 6) if "views" in scenario.extras else (size, 6)
        rows = {
            "inputs": torch.randn(shape, generator=generator, dtype=torch.float64),
            "coordinates": torch.randint(0, 4, (size, 2), generator=generator) / 4,
        }
        if scenario.apart:
            rows["coordinates"] = torch.randn((size, 2), generator=generator) * 1e3
        if "groups" in scenario.extras:
            rows["groups"] = torch.randint(0, 3, (size,), generator=generator)
        if "weights" in scenario.extras:
            rows["sample_weights"] = torch.rand(size, generator=generator)
        if "memory" in scenario.extras or "bank" in scenario.extras:
            past = 3 + size % 2
            rows["past"] = torch.randn((past, 4), generator=generator, dtype=torch.float64)
            rows["past_coordinates"] = torch.randint(0, 4, (past, 2), generator=generator) / 4
            rows["past_groups"] = torch.randint(0, 3, (past,), generator=generator)
        ranks.append(rows)
    return ranks


def call(loss: Any, model: nn.Module, rows: dict[str, Tensor], scenario: Scenario, **more: Any):
    """Loss of one rank's rows, or of the rows of all."""
    embeddings = model(rows["inputs"])
    options = {"temperature": 0.5, "radius": 0.3, **scenario.options, **more}
    options |= {name: rows[name] for name in ("groups", "sample_weights") if name in rows}
    if "memory" in scenario.extras:
        options["contrast_embeddings"] = torch.cat((embeddings, rows["past"]))
        options["contrast_coordinates"] = torch.cat((rows["coordinates"], rows["past_coordinates"]))
        options["contrast_groups"] = torch.cat((rows["groups"], rows["past_groups"]))
        options["self_offset"] = 0
    if "bank" in scenario.extras:
        options["contrast_embeddings"] = rows["past"]
        options["contrast_coordinates"] = rows["past_coordinates"]
    return loss(embeddings, rows["coordinates"], **options)


def run_scenario(scenario: Scenario, rank: int, world: int) -> dict[str, Tensor]:
    model = DistributedDataParallel(make_model())
    rows = make_batch(scenario, world)[rank]
    more: dict[str, Any] = {}
    if "temperature" in scenario.extras:
        more["temperature"] = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    if "sizes" in scenario.extras:
        more["sizes"] = scenario.sizes[:world]
    loss = call(va_supcon_loss_distributed, model, rows, scenario, **more)
    (loss.square().sum() if scenario.options.get("reduction") == "none" else loss).backward()
    result = {"loss": loss.detach()}
    result |= {name: value.grad for name, value in model.module.named_parameters()}
    if "temperature" in more:
        averaged = more["temperature"].grad.clone()
        dist.all_reduce(averaged)
        result["temperature"] = averaged / world
    return result


def objective(model: nn.Module, rows: dict[str, Tensor], loss: UniVALoss) -> UniVALossOutput:
    """The whole objective of a rank's rows; the model makes logits and embeddings."""
    outputs = model(rows["inputs"])
    return loss(
        outputs,
        rows["groups"][:, None] == torch.arange(4),
        {"text": outputs, "vision": 2 * outputs},
        {"text": rows["coordinates"], "vision": rows["coordinates"].flip(1)},
        torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 4),
    )


def run_objective(rank: int, world: int) -> dict[str, Tensor]:
    """UniVALoss with gather_distributed."""
    model = DistributedDataParallel(make_model())
    rows = make_batch(SCENARIOS["groups"], world)[rank]
    output = objective(model, rows, UniVALoss(**OBJECTIVE, gather_distributed=True))
    output.total.backward()
    return {"total": output.total.detach(), "weight": model.module.weight.grad}


def run_memory(rank: int, world: int) -> dict[str, Any]:
    """CrossBatchMemory around VASupConLoss with gather_distributed, over a few steps."""
    loss = VASupConLoss(0.5, 0.3, self_weight=0.5, gather_distributed=True)
    memory = CrossBatchMemory(loss, memory_size=8)
    model = DistributedDataParallel(make_model())
    losses = []
    for step in range(4):
        rows = make_batch(SCENARIOS["even"], world)[rank]
        value = memory(model(rows["inputs"] + step), rows["coordinates"])
        value.backward()
        losses.append(value.item())
    return {"losses": losses, "weight": model.module.weight.grad}


def run_collectives(rank: int, world: int) -> dict[str, Any]:
    """gather_rows and sum_over_ranks; rows of rank r hold r + 1."""
    count = rank * 2  # none on rank 0
    filled = torch.full((count, 2, 3), rank + 1.0)
    result: dict[str, Any] = {"counts": row_counts(filled)}
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool):
        result[str(dtype)] = gather_rows(filled.to(dtype))
    strided = torch.full((2, 6 + 2 * rank), rank + 1.0)[:, ::2].T
    result["strided"] = gather_rows(strided, sizes=range(3, 3 + world))
    result["columns"] = gather_rows(torch.zeros(count, 0)).shape
    half = filled.bfloat16().requires_grad_()
    gather_rows(half).sum().backward()
    result["half gradient"] = half.grad
    # Rank r weighs everything by r + 1; twice differentiated.
    leaf = torch.full((count,), rank + 2.0, requires_grad=True)
    loss = (rank + 1) * gather_rows(leaf).pow(3).sum()
    (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
    result["first"] = first.detach()
    (result["second"],) = torch.autograd.grad(first.sum(), leaf)
    scalar = torch.tensor(rank + 1.0, requires_grad=True)
    total = sum_over_ranks(scalar)
    ((rank + 1) * total.square()).backward()
    result["total"], result["total gradient"] = total.detach(), scalar.grad
    for name, options in (("sizes", {"sizes": [1] * world}), ("length", {"sizes": [count]})):
        try:
            gather_rows(torch.zeros(count, 2), **options)
        except ValueError as error:
            result[f"wrong {name}"] = str(error)
    return result


def run_subgroup(rank: int, world: int) -> dict[str, Any]:
    """The loss of the first and the last rank; what the others hear."""
    members = dist.new_group([0, world - 1])
    rows = make_batch(SCENARIOS["even"], world)[rank]
    try:
        loss = call(
            va_supcon_loss_distributed, make_model(), rows, SCENARIOS["even"], group=members
        )
    except ValueError as error:
        return {"error": str(error)}
    return {"loss": loss.detach()}


def run_refusals(rank: int, world: int) -> dict[str, str]:
    rows, places = torch.randn(4, 3), torch.rand(4, 2)
    heard = {}
    for name, options in {
        "missing": {"radius": 0.0, "no_positives": "error"},
        "unknown": {"gather": True},
        "sizes": {"sizes": [5] * world},
        "offset": {
            "contrast_embeddings": rows,
            "contrast_coordinates": places,
            "self_offset": 1,
        },
        "offset alone": {"self_offset": 1},
        "tie alone": {"tie_self": True},
        "tie of columns": {
            "contrast_embeddings": torch.randn(4, 2),
            "contrast_coordinates": places,
            "self_offset": 0,
            "tie_self": True,
        },
        "tie of dtypes": {
            "contrast_embeddings": rows.double(),
            "contrast_coordinates": places,
            "self_offset": 0,
            "tie_self": True,
        },
        "places": {"contrast_embeddings": rows},
        "contrast": {"contrast_coordinates": places},
        "groups": {
            "contrast_embeddings": rows,
            "contrast_coordinates": places,
            "groups": torch.zeros(4, dtype=torch.long),
        },
    }.items():
        try:
            va_supcon_loss_distributed(rows, places, **options)
        except (TypeError, ValueError) as error:
            heard[name] = f"{type(error).__name__}: {error}"
    for name, shape in {"views": (4, 0, 3), "contrast of views": (4, 2, 3)}.items():
        bank = {"contrast_embeddings": rows, "contrast_coordinates": places}
        try:
            va_supcon_loss_distributed(torch.zeros(shape), places, **(bank if shape[1] else {}))
        except ValueError as error:
            heard[name] = str(error)
    return heard


def run(folder: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/{world}.store",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    with use_backend("reference"):
        result: dict[str, Any] = {
            name: run_scenario(scenario, rank, world) for name, scenario in SCENARIOS.items()
        }
        result["collectives"] = run_collectives(rank, world)
        result["objective"] = run_objective(rank, world)
        result["memories"] = run_memory(rank, world)
        result["subgroup"] = run_subgroup(rank, world)
        result["refusals"] = run_refusals(rank, world)
    torch.save(result, folder / f"{world}_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def main(folder: Path) -> None:
    import torch._dynamo  # DistributedDataParallel does; here once, before the fork

    context = torch.multiprocessing.get_context("fork")
    processes = [
        context.Process(target=run, args=(folder, rank, world), daemon=True)
        for world in WORLDS
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
