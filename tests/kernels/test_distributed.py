"""Several ranks give the loss and the gradients of one process with all rows.

The ranks (gloo; 2 and 3 of them) run in processes of their own: `tests/kernels/distributed_ranks`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.kernels.cases import BACKENDS
from tests.kernels.distributed_ranks import (
    OBJECTIVE,
    SCENARIOS,
    WORLDS,
    call,
    make_batch,
    make_model,
    objective,
)
from univa_kernels import UniVALoss, VASupConLoss, use_backend, va_supcon_loss
from univa_kernels.distributed import (
    gather_rows,
    row_counts,
    sum_over_ranks,
    va_supcon_loss_distributed,
)
from univa_kernels.losses.cross_batch_memory import CrossBatchMemory

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not hasattr(os, "fork"),
    reason="needs torch.distributed and fork",
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What every rank of every world has written: (world, rank) -> results."""
    folder = tmp_path_factory.mktemp("ranks")
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.distributed_ranks", str(folder)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return {
        (world, rank): torch.load(folder / f"{world}_{rank}.pt", weights_only=True)
        for world in WORLDS
        for rank in range(world)
    }


def one_process(scenario, world):
    """Loss and gradients of the concatenated batch; with "none", of all rows' losses."""
    rows = all_rows(scenario, world)
    model = make_model()
    more = {}
    if "temperature" in scenario.extras:
        more["temperature"] = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    with use_backend("reference"):
        loss = call(va_supcon_loss, model, rows, scenario, **more)
        if scenario.options.get("reduction") == "none":
            # Each rank makes the sum of squares of its rows' losses; DDP averages over ranks.
            (loss.square().sum() / world).backward()
        else:
            loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters()}
    if more:
        gradients["temperature"] = more["temperature"].grad
    return loss.detach(), gradients


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_ranks_are_one_process(ranks, name, world):
    scenario = SCENARIOS[name]
    loss, gradients = one_process(scenario, world)
    parts = [loss] * world
    if scenario.options.get("reduction") == "none":
        parts = loss.split(scenario.sizes[:world])
    for rank in range(world):
        result = ranks[world, rank][name]
        torch.testing.assert_close(result["loss"], parts[rank], rtol=1e-12, atol=1e-12)
        assert result.keys() == {"loss", *gradients}
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(result[parameter], gradient, rtol=1e-12, atol=1e-12)
    if name not in ("apart", "nothing", "one each"):
        assert loss.abs().sum() > 0
        assert gradients["weight"].abs().sum() > 0


@pytest.mark.parametrize("world", WORLDS)
def test_collectives(ranks, world):
    counts = [2 * rank for rank in range(world)]
    filled = torch.cat([torch.full((n, 2, 3), r + 1.0) for r, n in enumerate(counts)])
    weight = sum(range(1, world + 1))
    for rank in range(world):
        got = ranks[world, rank]["collectives"]
        assert got["counts"] == tuple(counts)
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool):
            assert torch.equal(got[str(dtype)], filled.to(dtype))
        assert torch.equal(
            got["strided"],
            torch.cat([torch.full((3 + r, 2), r + 1.0) for r in range(world)]),
        )
        assert got["columns"] == (sum(counts), 0)
        assert torch.equal(got["half gradient"].float(), torch.full((counts[rank], 2, 3), world))
        leaf = torch.full((counts[rank],), rank + 2.0)
        torch.testing.assert_close(got["first"], weight * 3 * leaf.square())
        torch.testing.assert_close(got["second"], weight * 6 * leaf)
        assert got["total"] == weight
        assert got["total gradient"] == weight * 2 * weight
        assert "one entry for each" in got["wrong sizes"]
        assert "one entry for each" in got["wrong length"]


def all_rows(scenario, world):
    batches = make_batch(scenario, world)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.parametrize("world", WORLDS)
def test_objective(ranks, world):
    model = make_model()
    with use_backend("reference"):
        output = objective(model, all_rows(SCENARIOS["groups"], world), UniVALoss(**OBJECTIVE))
        output.total.backward()
    assert all(output)
    for rank in range(world):
        got = ranks[world, rank]["objective"]
        torch.testing.assert_close(got["total"], output.total.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got["weight"], model.weight.grad, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("world", WORLDS)
def test_memories_of_all_ranks(ranks, world):
    # 4 rows a step and rank and memories of 8: whole steps are forgotten on either side.
    memory = CrossBatchMemory(VASupConLoss(0.5, 0.3, self_weight=0.5), memory_size=8 * world)
    model, losses = make_model(), []
    with use_backend("reference"):
        for step in range(4):
            rows = all_rows(SCENARIOS["even"], world)
            loss = memory(model(rows["inputs"] + step), rows["coordinates"])
            loss.backward()
            losses.append(loss.item())
    for rank in range(world):
        got = ranks[world, rank]["memories"]
        assert got["losses"] == pytest.approx(losses, rel=1e-12)
        torch.testing.assert_close(got["weight"], model.weight.grad, rtol=1e-12, atol=1e-12)


def test_subgroup(ranks):
    batches = make_batch(SCENARIOS["even"], 3)
    rows = {name: torch.cat([batches[rank][name] for rank in (0, 2)]) for name in batches[0]}
    with use_backend("reference"):
        expected = call(va_supcon_loss, make_model(), rows, SCENARIOS["even"])
    for rank in (0, 2):
        torch.testing.assert_close(ranks[3, rank]["subgroup"]["loss"], expected.detach())
    assert "group does not hold this process" in ranks[3, 1]["subgroup"]["error"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "ValueError: {anchors} anchors of all ranks have no positive"),
        ("unknown", "TypeError: contrastive_terms() got an unexpected keyword argument 'gather'"),
        ("sizes", "ValueError: sizes must have one entry"),
        ("offset", "ValueError: self_offset must be from 0 to 0"),
        ("offset alone", "ValueError: self_offset needs contrast_embeddings"),
        ("tie alone", "ValueError: tie_self needs contrast_embeddings"),
        ("tie of columns", "ValueError: contrast_embeddings must have as many columns"),
        ("tie of dtypes", "TypeError: contrast_embeddings are torch.float64 but embeddings are"),
        ("places", "ValueError: contrast_embeddings need contrast_coordinates"),
        ("contrast", "ValueError: contrast_coordinates and contrast_groups need"),
        ("groups", "ValueError: groups and contrast_groups go together"),
        ("views", "at least one view"),
        ("contrast of views", "without views"),
    ],
)
def test_refuses(ranks, name, message):
    for world, rank in ranks:
        assert message.format(anchors=4 * world) in ranks[world, rank]["refusals"][name]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rank_without_rows_has_zero_gradients_for_the_others(backend):
    # None instead would leave the other ranks waiting for its part of their gradients.
    others = torch.randn(5, 4, requires_grad=True)
    with use_backend(backend):
        va_supcon_loss(
            torch.zeros(0, 4, requires_grad=True),
            torch.zeros(0, 2),
            contrast_embeddings=others,
            contrast_coordinates=torch.zeros(5, 2),
            self_offset=0,
        ).backward()
    assert torch.equal(others.grad, torch.zeros(5, 4))


def test_without_torch_distributed():
    rows, places = torch.randn(6, 3, requires_grad=True), torch.rand(6, 2)
    options = {"radius": 0.5, "self_weight": 0.5, "reduction": "none"}
    assert torch.equal(
        va_supcon_loss_distributed(rows, places, **options), va_supcon_loss(rows, places, **options)
    )
    assert gather_rows(rows) is rows
    assert sum_over_ranks(rows) is rows
    assert row_counts(rows) == (6,)
    with pytest.raises(ValueError, match="one entry for each of 1 ranks"):
        gather_rows(rows, sizes=[5])
