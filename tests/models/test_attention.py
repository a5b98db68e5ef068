import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from univa.models.attention import AdditiveAttentionPooling, SelfAttention, masked_softmax
from univa.models.encoder import TransformerEncoder


def random_mask(batch, length):
    mask = torch.rand(batch, length) < 0.6
    mask[torch.arange(batch), torch.randint(length, (batch,))] = True
    return mask


@given(
    batch=st.integers(1, 4),
    length=st.integers(1, 9),
    heads=st.integers(1, 4),
    width=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_self_attention_is_the_textbook_formula(batch, length, heads, width, seed):
    torch.manual_seed(seed)
    size = heads * width
    module = SelfAttention(size, heads).double()
    states, mask = torch.randn(batch, length, size).double(), random_mask(batch, length)

    query, key, value = module.query_key_value(states).split(size, dim=2)
    truth = torch.zeros_like(states)
    for b in range(batch):
        real = mask[b].nonzero().squeeze(1)
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            scores = query[b, :, part] @ key[b, real, part].T / math.sqrt(width)
            truth[b, :, part] = scores.softmax(1) @ value[b, real, part]
    torch.testing.assert_close(module(states, mask), module.output(truth), rtol=1e-10, atol=1e-12)


@given(batch=st.integers(1, 4), length=st.integers(1, 9), seed=st.integers(0, 99))
def test_pooling_is_its_formula(batch, length, seed):
    torch.manual_seed(seed)
    module = AdditiveAttentionPooling(6).double()
    states, mask = torch.randn(batch, length, 6).double(), random_mask(batch, length)
    query = module.query_projection.weight @ module.query + module.query_projection.bias
    truth = []
    for b in range(batch):
        real = states[b, mask[b]]
        inner = torch.tanh(
            real @ module.state_projection.weight.T + module.state_projection.bias + query
        )
        weights = (inner @ module.score.weight[0] + module.score.bias).softmax(0)
        truth.append(weights @ real)
    torch.testing.assert_close(module(states, mask), torch.stack(truth), rtol=1e-10, atol=1e-12)


@given(
    rows=st.integers(1, 4),
    spans=st.integers(1, 7),
    length=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_pooling_spans_equals_pooling_copies(rows, spans, length, seed):
    torch.manual_seed(seed)
    module = AdditiveAttentionPooling(6).double()
    shared = torch.randn(rows, length, 6).double().requires_grad_()
    row, mask = torch.randint(rows, (spans,)), random_mask(spans, length)
    pooled, copied = module.pool_spans(shared, row, mask), module(shared[row], mask)
    torch.testing.assert_close(pooled, copied, rtol=1e-10, atol=1e-12)

    weight = torch.randn_like(pooled)
    (ours,) = torch.autograd.grad((pooled * weight).sum(), shared)
    (theirs,) = torch.autograd.grad((copied * weight).sum(), shared)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_gradients_of_span_pooling():
    torch.manual_seed(0)
    module = AdditiveAttentionPooling(3).double()
    states = torch.randn(2, 4, 3).double().requires_grad_()
    row, mask = torch.tensor([1, 0, 1]), random_mask(3, 4)
    assert torch.autograd.gradcheck(lambda s: module.pool_spans(s, row, mask), (states,))


def test_masked_softmax_is_zero_outside_and_nan_without_a_step():
    mask = torch.tensor([[True, False, True], [False, False, False]])
    weights = masked_softmax(torch.tensor([[1e4, 5.0, -1e4], [0.0, 0.0, 0.0]]), mask)
    assert weights[0].tolist() == [1.0, 0.0, 0.0]
    assert weights[1].isnan().all()  # loud, where the check of the mask had to be left out


def test_encoder_without_layers_projects_and_adds_positions():
    torch.manual_seed(0)
    encoder = TransformerEncoder(
        3, 4, num_layers=0, max_length=6, num_heads=2, feedforward_size=8, dropout=0.5
    ).eval()
    features = torch.randn(2, 5, 3)
    wanted = encoder.projection(features) + encoder.position_embeddings(torch.arange(5))
    got = encoder(features, torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_acts_in_training_only(dropout):
    torch.manual_seed(0)
    encoder = TransformerEncoder(
        3, 4, num_layers=2, max_length=6, num_heads=2, feedforward_size=8, dropout=dropout
    )
    features, mask = torch.randn(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
    assert torch.equal(encoder(features, mask), encoder(features, mask)) == (dropout == 0)
    encoder.eval()
    assert torch.equal(encoder(features, mask), encoder(features, mask))
