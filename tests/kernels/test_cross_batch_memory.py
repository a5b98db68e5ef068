"""The memory against a plain list of rows, in float64."""

import copy
import pickle
from functools import partial
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from tests.kernels import truth
from tests.kernels.cases import BACKENDS
from univa_kernels import VASupConLoss, use_backend, va_supcon_loss
from univa_kernels.losses.cross_batch_memory import CrossBatchMemory


@pytest.fixture(params=BACKENDS, scope="module")
def _backend(request):
    with use_backend(request.param):
        yield


OPTIONS = {"temperature": 0.5, "radius": 0.3, "self_weight": 0.5}


def batches(sizes, *, dimension=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    for size in sizes:
        yield (
            torch.randn(size, dimension, generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(0, 4, (size, 2), generator=generator) / 4,
            torch.randint(0, 3, (size,), generator=generator),
        )


class ListMemory:
    """Rows one by one in a list; the batch in front of them."""

    def __init__(self, size, **options):
        self.size, self.options, self.rows = size, options, []

    def __call__(self, embeddings, coordinates, groups=None):
        past = [row for row, _, _ in self.rows]
        losses, count = truth.contrastive_losses(
            embeddings,
            coordinates,
            contrast_embeddings=torch.stack([*embeddings, *past]),
            contrast_coordinates=torch.stack([*coordinates, *(place for _, place, _ in self.rows)]),
            self_offset=0,
            groups=groups,
            contrast_groups=(
                None if groups is None else torch.stack([*groups, *(g for _, _, g in self.rows)])
            ),
            **self.options,
        )
        for i in range(len(embeddings)):
            self.rows.append(
                (embeddings[i].detach(), coordinates[i], None if groups is None else groups[i])
            )
            if len(self.rows) > self.size:
                self.rows.pop(0)
        return losses.sum() / (count > 0).sum().clamp(min=1)


@pytest.mark.usefixtures("_backend")
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12),
    st.lists(st.integers(1, 15), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.booleans(),
)
def test_is_a_list_of_rows(size, sizes, self_weight, with_groups):
    options = {**OPTIONS, "self_weight": self_weight}
    memory, simulation = (
        CrossBatchMemory(VASupConLoss(**options), memory_size=size),
        ListMemory(size, **options),
    )
    seen = 0
    for embeddings, coordinates, groups in batches(sizes):
        leaves = [embeddings.clone().requires_grad_() for _ in range(2)]
        extra = {"groups": groups} if with_groups else {}
        loss = memory(leaves[0], coordinates, **extra)
        expected = simulation(leaves[1], coordinates, **extra)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-8, atol=1e-10)
        seen += len(embeddings)
        assert memory.filled == min(seen, size)
        assert torch.equal(memory.embeddings, torch.stack([row for row, _, _ in simulation.rows]))
        assert not memory.embeddings.requires_grad


@pytest.mark.usefixtures("_backend")
def test_first_batch_is_the_loss_without_memory():
    embeddings, coordinates, _ = next(batches([9]))
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=5)
    torch.testing.assert_close(
        memory(embeddings, coordinates), va_supcon_loss(embeddings, coordinates, **OPTIONS)
    )


@pytest.mark.usefixtures("_backend")
def test_class_labels_a_function_and_options_of_the_call():
    embeddings, weights = torch.randn(6, 4).double(), torch.rand(6)
    labels = torch.tensor([0, 1, 2**40, 2**40 + 1, 0, 2**40])
    memory = CrossBatchMemory(partial(va_supcon_loss, radius=0.5), memory_size=100)
    memory(embeddings, labels)
    loss = memory(embeddings.flip(0), labels.flip(0), sample_weights=weights)
    expected = va_supcon_loss(
        embeddings.flip(0),
        labels.flip(0),
        radius=0.5,
        contrast_embeddings=torch.cat((embeddings.flip(0), embeddings)),
        contrast_coordinates=torch.cat((labels.flip(0), labels)),
        self_offset=0,
        sample_weights=weights,
    )
    torch.testing.assert_close(loss, expected)
    assert memory.coordinates.dtype == torch.float64


def test_what_the_caller_does_with_a_batch_later_is_not_remembered():
    embeddings, coordinates, _ = next(batches([4]))
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=8)
    before = embeddings.clone()
    memory(embeddings, coordinates)
    embeddings.zero_()
    coordinates.zero_()
    assert torch.equal(memory.embeddings, before)
    assert memory.coordinates.any()


def test_evaluation_uses_the_memory_and_leaves_it():
    first, second = batches([5, 3])
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=8)
    memory(*first[:2])
    memory.eval()
    loss = memory(*second[:2])
    assert memory.filled == 5
    assert memory(*second[:2]) == loss
    assert loss != VASupConLoss(**OPTIONS)(*second[:2])
    memory.train()
    assert memory(*second[:2]) == loss
    assert memory.filled == 8
    memory.reset()
    assert memory.filled == 0
    torch.testing.assert_close(memory(*second[:2]), VASupConLoss(**OPTIONS)(*second[:2]))


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("with_groups", [False, True])
def test_state_dict(tmp_path, with_groups, assign):
    def step(memory, batch):
        return memory(*batch[:2], **({"groups": batch[2]} if with_groups else {}))

    *past, last = batches([3, 4, 2])  # 7 of 10 rows are filled
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS, learn_temperature=True), memory_size=10)
    for batch in past:
        step(memory, batch)
    torch.save(memory.state_dict(), tmp_path / "memory.pt")
    state = torch.load(tmp_path / "memory.pt", weights_only=True)
    assert sorted(state) == ["coordinates", "embeddings", "groups", "loss.log_temperature"]
    again = CrossBatchMemory(VASupConLoss(**OPTIONS, learn_temperature=True), memory_size=10)
    step(again, last)  # what it held is replaced
    again.load_state_dict(state, assign=assign)
    assert again.filled == 7
    assert again.embeddings.dtype == torch.float64
    duplicate = copy.deepcopy(again)
    assert step(again, last) == step(memory, last) == step(duplicate, last)
    assert torch.equal(again.embeddings, memory.embeddings)


def test_state_dict_of_a_larger_memory_keeps_the_newest():
    memory, small = (
        CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=size) for size in (10, 4)
    )
    for embeddings, coordinates, groups in batches([3, 6]):
        memory(embeddings, coordinates, groups=groups)
    state = memory.state_dict()
    small.load_state_dict(state)
    assert torch.equal(small.embeddings, memory.embeddings[-4:])
    assert torch.equal(small.coordinates, memory.coordinates[-4:])
    assert torch.equal(small.groups, memory.groups[-4:])
    assert len(state["embeddings"]) == 9
    nested = torch.nn.ModuleDict({"inner": small})
    nested.load_state_dict({f"inner.{name}": value for name, value in state.items()})
    assert nested["inner"].filled == 4


def test_dtype_moves():
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=20)
    labels = torch.tensor([0, 1, 2049, 2048, 1])
    memory(torch.randn(5, 4), labels)
    memory.half()
    assert memory.embeddings.dtype == torch.float16
    assert memory.coordinates[:, 0].tolist() == labels.tolist()  # 2049 is not in float16
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        embeddings = torch.randn(5, 4, dtype=dtype, requires_grad=True)
        memory(embeddings, labels).backward()
        assert embeddings.grad.dtype == memory.embeddings.dtype == dtype
    assert memory.filled == 20
    assert memory.to("meta").embeddings.device.type == "meta"


def test_reads_no_values():
    # Tensors on "meta" have none: whatever asked for one would raise.
    def loss(embeddings, coordinates, *, contrast_embeddings, self_offset, **_):
        return (embeddings @ contrast_embeddings.T).sum() + self_offset

    memory = CrossBatchMemory(loss, memory_size=12)
    for embeddings, coordinates, groups in batches([5] * 4):
        memory(embeddings.to("meta"), coordinates.to("meta"), groups=groups.to("meta"))
    assert memory.filled == 12


def test_compiles():
    def loss(embeddings, coordinates, *, contrast_embeddings, contrast_coordinates, self_offset):
        near = torch.cdist(coordinates, contrast_coordinates).exp()
        return ((embeddings @ contrast_embeddings.T) * near).sum() + self_offset

    memory, plain = CrossBatchMemory(loss, memory_size=12), CrossBatchMemory(loss, memory_size=12)
    compiled = torch.compile(memory, fullgraph=True, dynamic=True, backend="aot_eager")
    for embeddings, coordinates, _ in batches([5] * 5):
        coordinates = coordinates.double()
        expected = plain(embeddings, coordinates)
        torch.testing.assert_close(compiled(embeddings, coordinates), expected)
    assert torch.equal(memory.embeddings, plain.embeddings)


ROWS, PLACES = torch.randn(4, 3), torch.rand(4, 2)


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (ValueError, "embeddings must have 3 columns", (ROWS[:, :2], PLACES), {}),
        (ValueError, "coordinates must have 2 columns", (ROWS, PLACES[:, 0]), {}),
        (ValueError, "in every call or in none", (ROWS, PLACES), {"groups": torch.arange(4)}),
        (ValueError, "embeddings must have shape", (ROWS[0], PLACES), {}),
        (ValueError, "one row for each row", (ROWS, PLACES[:2]), {}),
        (TypeError, "groups must be integers", (ROWS, PLACES), {"groups": torch.rand(4)}),
    ],
)
def test_refuses(error, message, arguments, options):
    memory = CrossBatchMemory(VASupConLoss(), memory_size=8)
    memory(ROWS, PLACES)
    with pytest.raises(error, match=message):
        memory(*arguments, **options)
    assert memory.filled == 4


@pytest.mark.parametrize(
    ("error", "message", "loss", "size"),
    [
        (TypeError, "loss must be callable", 1, 8),
        (TypeError, "memory_size must be an int", VASupConLoss(), 8.0),
        (ValueError, "memory_size must be at least 1", VASupConLoss(), 0),
    ],
)
def test_constructor_refuses(error, message, loss, size):
    with pytest.raises(error, match=message):
        CrossBatchMemory(loss, memory_size=size)


@pytest.mark.usefixtures("_backend")
@pytest.mark.parametrize("size", [1, 3, 8, 50])
def test_backward_after_later_batches(size):
    # Memory is written behind rows that an earlier loss still needs, and moved under way.
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=size)
    simulation = ListMemory(size, **OPTIONS)
    total, expected, leaves, others = 0, 0, [], []
    for embeddings, coordinates, _ in batches([4] * 9):
        leaves.append(embeddings.clone().requires_grad_())
        others.append(embeddings.clone().requires_grad_())
        total = total + memory(leaves[-1], coordinates)
        expected = expected + simulation(others[-1], coordinates)
    total.backward()
    expected.backward()
    for leaf, other in zip(leaves, others, strict=True):
        torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-8, atol=1e-10)


def test_backward_after_later_evaluations():
    past, first, second = batches([5, 3, 3])
    grads = []
    for later in (False, True):
        memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=8)
        memory(*past[:2])
        memory.eval()
        rows = first[0].clone().requires_grad_()
        loss = memory(rows, first[1])
        if later:
            memory(*second[:2])
        loss.backward()
        grads.append(rows.grad)
    assert torch.equal(*grads)


def test_training_after_inference_mode():
    first, second = batches([5, 3])
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=8)
    with torch.inference_mode():
        memory(*first[:2])
    memory(second[0].clone().requires_grad_(), second[1]).backward()
    assert memory.filled == 8


def test_no_copy_of_the_memory_in_most_steps():
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=64)
    allocations, rows = set(), []
    for embeddings, coordinates, _ in batches([4] * 60):
        memory(embeddings, coordinates)
        allocations.add(memory.embeddings.untyped_storage().data_ptr())
        rows.append(memory.embeddings)  # keeps every allocation alive: addresses are not used again
    assert len(allocations) < 20
    assert {row.untyped_storage().nbytes() // row[0].nbytes for row in rows[30:]} == {80}
    assert len(memory.state_dict()["embeddings"].untyped_storage()) == 64 * 4 * 8


def test_the_memory_gets_no_gradient():
    # As many bytes as the memory has would be allocated, and as many products again be made.
    embeddings, coordinates, _ = next(batches([4]))
    bank, places, _ = next(batches([5000], seed=1))
    for contrast in (bank, bank.clone().requires_grad_()):
        leaf = embeddings.clone().requires_grad_()
        loss = va_supcon_loss(
            leaf,
            coordinates,
            contrast_embeddings=contrast,
            contrast_coordinates=places,
            **OPTIONS,
        )
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            loss.backward()
        backward = next(e for e in profiled.events() if e.name == "univa::contrastive_backward")
        assert (backward.cpu_memory_usage >= bank.nbytes) == contrast.requires_grad


def step(memory, batch):
    """One training step; the loss, not yet gone back through, and its leaf."""
    leaf = batch[0].clone().requires_grad_()
    return memory(leaf, batch[1]), leaf


@pytest.mark.parametrize(
    "part",
    [
        lambda rows: rows[:8],  # the oldest: the rows behind are another loss's
        lambda rows: rows[::2],
        lambda rows: rows.flip(0),
        lambda rows: rows.clone(),
    ],
)
def test_memory_set_to_a_part_of_itself(part):
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=16)
    first, second, third = batches([8, 4, 4])
    memory(*first[:2])
    loss, leaf = step(memory, second)
    (want,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    memory.embeddings = part(memory.embeddings)
    memory.coordinates = part(memory.coordinates)
    kept = memory.embeddings.clone()
    memory(*third[:2])
    (grad,) = torch.autograd.grad(loss, leaf)
    assert torch.equal(grad, want)
    assert torch.equal(memory.embeddings, torch.cat((kept, third[0])))


def test_memory_set_to_fewer_columns():
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=16)
    memory(*next(batches([8]))[:2])
    memory.embeddings = memory.embeddings[:, :3]
    kept = memory.embeddings.clone()
    rows, places, _ = next(batches([4], dimension=3))
    memory(rows, places)
    assert torch.equal(memory.embeddings, torch.cat((kept, rows)))


def test_two_steps_from_the_same_memory():
    # functional_call puts the memory back: the second batch belongs where the first one lies.
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=16)
    past, *both = batches([4, 4, 4])
    memory(*past[:2])
    buffers = dict(memory.named_buffers())
    total, leaves, expected = 0, [], []
    for batch in both:
        loss, leaf = step(copy.deepcopy(memory), batch)
        expected += torch.autograd.grad(loss, leaf)
        leaves.append(batch[0].clone().requires_grad_())
        arguments = (leaves[-1], batch[1])
        total = total + torch.func.functional_call(memory, dict(buffers), arguments)
    for grad, want in zip(torch.autograd.grad(total, leaves), expected, strict=True):
        torch.testing.assert_close(grad, want)


def test_memories_that_share_their_storage():
    # As torch.multiprocessing hands a module to several processes.
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=16)
    first, second, third = batches([8, 4, 4])
    memory(*first[:2])
    one, other = (pickle.loads(bytes(ForkingPickler.dumps(memory))) for _ in range(2))
    one(*second[:2])
    other(*third[:2])
    assert torch.equal(one.embeddings, torch.cat((first[0], second[0])))
    assert torch.equal(other.embeddings, torch.cat((first[0], third[0])))
    assert torch.equal(memory.embeddings, first[0])


def test_a_pickle_holds_the_rows_alone():
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=8)
    for batch in batches([4] * 3):
        memory(*batch[:2])
    copied = pickle.loads(pickle.dumps(memory))
    assert torch.equal(copied.embeddings, memory.embeddings)
    assert copied.embeddings.untyped_storage().nbytes() == 8 * 4 * 8


def test_another_loss_takes_its_place():
    class Plain(torch.nn.Module):
        def forward(self, embeddings, coordinates, **contrast):
            assert "tie_self" not in contrast
            return va_supcon_loss(embeddings, coordinates, **contrast, **OPTIONS)

    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=8)
    grads = []
    for loss in (memory.loss, Plain(), memory.loss):
        memory.reset()
        memory.loss = loss
        for batch in batches([4, 4]):
            value, leaf = step(memory, batch)
        grads += torch.autograd.grad(value, leaf)
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0], grads[2])


def test_a_loss_without_a_signature():
    assert CrossBatchMemory(max, memory_size=8).filled == 0


def test_replicas_on_one_device():
    # As DataParallel makes them of a memory that stays as it is.
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=16)
    past, *both = batches([8, 4, 4])
    memory(*past[:2])
    total, leaves, expected = 0, [], []
    for batch in both:
        loss, leaf = step(copy.deepcopy(memory), batch)
        expected += torch.autograd.grad(loss, leaf)
        loss, leaf = step(memory._replicate_for_data_parallel(), batch)
        total, leaves = total + loss, [*leaves, leaf]
    for grad, want in zip(torch.autograd.grad(total, leaves), expected, strict=True):
        torch.testing.assert_close(grad, want)


def test_under_function_transforms():
    first, second, third = batches([4, 4, 4])
    memory = CrossBatchMemory(VASupConLoss(**OPTIONS), memory_size=16)
    memory(*first[:2])
    loss, leaf = step(copy.deepcopy(memory), second)
    (want,) = torch.autograd.grad(loss, leaf)
    grad = torch.func.grad(lambda rows: memory(rows, second[1]))(second[0])
    torch.testing.assert_close(grad, want)
    with pytest.raises(RuntimeError, match=r"do not run under torch\.vmap"):
        torch.vmap(lambda rows: memory(rows, third[1]))(torch.stack([third[0]] * 2))
    memory(*third[:2])
    assert torch.equal(memory.embeddings, torch.cat((first[0], second[0], third[0])))


@pytest.mark.usefixtures("_backend")
def test_own_copies_under_activation_checkpointing():
    # It hands out what a backward keeps once only.
    rows, places, _ = next(batches([6]))
    bank = {"contrast_embeddings": rows, "contrast_coordinates": places, "self_offset": 2}
    grads = []
    for run in (lambda f, x: f(x), partial(checkpoint, use_reentrant=False)):
        leaf = rows[2:].clone().requires_grad_()
        run(
            lambda x: va_supcon_loss(x, places[2:], **bank, tie_self=True, **OPTIONS), leaf
        ).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)
