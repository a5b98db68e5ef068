import pytest
from hypothesis import given
from hypothesis import strategies as st

from univa.data import DialogueBatchSampler, UtteranceBatchSampler
from univa.errors import UserError

lengths = st.lists(st.integers(1, 30), min_size=1, max_size=40)


def dialogue_of(sizes):
    return [place for place, size in enumerate(sizes) for _ in range(size)]


@given(lengths, st.integers(1, 24), st.integers(0, 3), st.integers(0, 5), st.booleans())
def test_every_utterance_comes_once_and_short_dialogues_stay_whole(
    sizes, batch_size, seed, epoch, shuffle
):
    sampler = DialogueBatchSampler(sizes, batch_size=batch_size, seed=seed, shuffle=shuffle)
    batches = sampler.batches(epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(sum(sizes)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    owner = dialogue_of(sizes)
    for batch in batches:
        for place in {owner[i] for i in batch}:
            here = [i for i in batch if owner[i] == place]
            assert here == list(range(here[0], here[0] + len(here)))
            if sizes[place] <= batch_size:
                assert len(here) == sizes[place]
            else:
                assert len(here) == len(batch)
                assert len(here) >= sizes[place] // -(-sizes[place] // batch_size)


def every_kind(sizes, **options):
    yield lambda **more: DialogueBatchSampler(sizes, **options, **more)
    options.pop("shuffle")
    yield lambda **more: UtteranceBatchSampler(sum(sizes), **options, **more)


@given(lengths, st.integers(1, 24), st.integers(0, 5), st.integers(1, 5), st.booleans())
def test_ranks_make_the_same_number_of_steps_and_share_the_epoch(
    sizes, batch_size, epoch, world_size, shuffle
):
    for make in every_kind(sizes, batch_size=batch_size, shuffle=shuffle):
        ranks = [make(rank=rank, world_size=world_size) for rank in range(world_size)]
        parts = [rank.batches(epoch) for rank in ranks]
        assert len({len(part) for part in parts}) == 1
        assert all(0 < len(batch) <= batch_size for part in parts for batch in part)
        assert ranks[0].sizes(epoch) == [sum(map(len, k)) for k in zip(*parts, strict=True)]
        seen = sorted(i for part in parts for batch in part for i in batch)
        if batch_size > 1 and sum(sizes) >= world_size:
            assert seen == list(range(sum(sizes)))
        assert set(seen) == set(range(sum(sizes)))
        assert ranks[0].total_steps(3) == sum(len(ranks[0].batches(e)) for e in range(3))
        assert ranks[0].total_steps(2, 3) == sum(
            -(-len(ranks[0].batches(e)) // 3) for e in range(2)
        )


@given(lengths, st.integers(2, 12), st.integers(0, 5), st.integers(2, 4))
def test_ranks_together_see_the_batches_of_one_process(sizes, batch_size, epoch, world_size):
    if sum(sizes) < 2 * world_size * batch_size:
        return
    for make in every_kind(sizes, seed=3, shuffle=True, batch_size=batch_size):
        parts = [make(rank=r, world_size=world_size).batches(epoch) for r in range(world_size)]
        together = [sorted(i for part in k for i in part) for k in zip(*parts, strict=True)]
        for alone in every_kind(sizes, seed=3, shuffle=True, batch_size=batch_size * world_size):
            batches = [sorted(batch) for batch in alone().batches(epoch)]
            if isinstance(alone(), type(make())) and min(map(len, batches)) >= world_size:
                assert together == batches


def test_whole_dialogues_go_to_ranks_where_they_fit():
    def both(sizes, batch_size):
        options = {"batch_size": batch_size, "world_size": 2, "shuffle": False}
        return [DialogueBatchSampler(sizes, rank=r, **options).batches(0) for r in range(2)]

    assert both([3, 4, 2], 5) == [[[3, 4, 5, 6]], [[0, 1, 2, 7, 8]]]
    assert both([1, 8], 5) == [[[0, 1, 2, 3]], [[4, 5, 6, 7, 8]]]


@given(lengths, st.integers(1, 24), st.integers(1, 60))
def test_a_budget_of_tokens(sizes, batch_size, budget):
    tokens = [3 * size for size in sizes]
    sampler = DialogueBatchSampler(
        sizes, batch_size=batch_size, dialogue_tokens=tokens, batch_tokens=budget
    )
    owner = dialogue_of(sizes)
    batches = sampler.batches(1)
    assert sorted(i for batch in batches for i in batch) == list(range(sum(sizes)))
    for batch in batches:
        here = {owner[i] for i in batch}
        assert len(here) == 1 or sum(tokens[place] for place in here) <= budget


def test_too_few_utterances_for_the_ranks_are_given_out_again():
    parts = [
        DialogueBatchSampler([1], batch_size=4, rank=rank, world_size=3).batches(0)
        for rank in range(3)
    ]
    assert parts == [[[0]]] * 3


def test_the_order_depends_on_seed_and_epoch_alone():
    sizes = [3, 1, 4, 1, 5, 9, 2, 6] * 4
    first = DialogueBatchSampler(sizes, batch_size=12, seed=5)
    again = DialogueBatchSampler(sizes, batch_size=12, seed=5)
    assert again.batches(7) == first.batches(7)  # nothing carries over from other epochs
    assert first.batches(0) == again.batches(0)
    assert first.batches(0) != first.batches(1)
    other = DialogueBatchSampler(sizes, batch_size=12, seed=6)
    assert other.batches(0) != first.batches(0)
    still = DialogueBatchSampler(sizes, batch_size=7, seed=5, shuffle=False)
    assert [i for batch in still.batches(3) for i in batch] == list(range(sum(sizes)))


def test_the_order_is_the_same_on_every_platform():
    # Written down once: a resumed run on another machine must see the same batches.
    sampler = DialogueBatchSampler([2, 3, 1, 2], batch_size=4, seed=1111)
    assert sampler.batches(0) == [[0, 1], [6, 7, 5], [2, 3, 4]]


def test_long_dialogues_are_cut_evenly():
    sampler = DialogueBatchSampler([2, 13, 2], batch_size=6, shuffle=False)
    assert [len(batch) for batch in sampler.batches(0)] == [2, 4, 4, 5, 2]


def test_single_utterances_are_drawn_anew_in_every_epoch():
    sampler = UtteranceBatchSampler(20, batch_size=8, seed=5)
    assert [len(batch) for batch in sampler.batches(0)] == [8, 8, 4]
    assert sampler.batches(0) == UtteranceBatchSampler(20, batch_size=8, seed=5).batches(0)
    assert sampler.batches(0) != sampler.batches(1)
    assert sampler.batches(0) != UtteranceBatchSampler(20, batch_size=8, seed=6).batches(0)


def test_bad_arguments():
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        DialogueBatchSampler([1], batch_size=0)
    with pytest.raises(UserError, match="no dialogue to sample from"):
        DialogueBatchSampler([], batch_size=1)
    with pytest.raises(ValueError, match=r"rank 2 is not in 0\.\.1"):
        DialogueBatchSampler([1], batch_size=1, rank=2, world_size=2)
