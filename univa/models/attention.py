"""Multi-head self-attention and additive-attention pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AdditiveAttentionPooling", "SelfAttention"]


class SelfAttention(nn.Module):
    """Multi-head self-attention through `scaled_dot_product_attention`.

    Query, key and value come from one matrix product. The bias of the keys adds the same to every
    score of a query, which the softmax takes out: its gradient is 0 in exact arithmetic, and what
    training makes of it is rounding noise. It is kept because checkpoints have it.

    Args:
        hidden_size: D, a multiple of `num_heads`.
        num_heads: number of heads.
        dropout: probability of dropping an attention weight while training.
    """

    def __init__(self, hidden_size: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Let every step attend to the real steps of its sequence.

        Args:
            states: [B, T, D].
            mask: [B, T] bool, True at real steps.

        Returns:
            [B, T, D].
        """
        batch, length, width = states.shape
        heads = self.query_key_value(states).view(batch, length, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [B, heads, T, D / heads]
        context = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask[:, None, None, :].expand(-1, -1, length, -1),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(context.transpose(1, 2).reshape(batch, length, width))


class AdditiveAttentionPooling(nn.Module):
    """Weighted mean of a sequence, the weights by additive attention with a learned query.

        score_t = v . tanh(P x_t + Q q) + c          q a trained vector, P and Q affine
        pooled  = sum_t softmax(score)_t x_t         over the real steps

    The rank-one freedom of Q q, and the constant c that the softmax takes out, are the authors';
    they are kept so that their checkpoints and gradients map one to one. The gradient of c
    (`score.bias`) is 0 in exact arithmetic, and what training makes of it is rounding noise.

    Args:
        hidden_size: D.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(hidden_size))
        self.query_projection = nn.Linear(hidden_size, hidden_size)
        self.state_projection = nn.Linear(hidden_size, hidden_size)
        self.score = nn.Linear(hidden_size, 1)

    def scores(self, states: Tensor) -> Tensor:
        """Score of every step before the softmax: [..., T, D] -> [..., T]."""
        query = self.query_projection(self.query)
        return self.score(torch.tanh(self.state_projection(states) + query)).squeeze(-1)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pool each sequence of a batch.

        Args:
            states: [B, T, D].
            mask: [B, T] bool, True at the steps to pool; at least one per row, or the row is NaN.

        Returns:
            [B, D].
        """
        weights = masked_softmax(self.scores(states), mask)  # [B, T]
        return (weights.unsqueeze(1) @ states).squeeze(1)

    def pool_spans(self, states: Tensor, row: Tensor, mask: Tensor) -> Tensor:
        """Pool B spans out of G shared sequences, scoring each step of a sequence once.

        Gathering a copy of its sequence for every span would take [B, T, D], and packing only
        the spans' steps would need the longest span's length on the host. One [B, G T] weight
        matrix, zero outside the spans, needs neither.

        Args:
            states: [G, T, D] the shared sequences.
            row: [B] int64, the sequence that holds each span.
            mask: [B, T] bool, True at the span's steps; at least one per span, or it is NaN.

        Returns:
            [B, D].
        """
        rows, length, width = states.shape
        weights = masked_softmax(self.scores(states)[row], mask)  # [B, T]
        spread = weights.new_zeros(len(row), rows, length)
        index = row.view(-1, 1, 1).expand(-1, 1, length)
        spread = spread.scatter(1, index, weights.unsqueeze(1))  # [B, G, T]
        return spread.view(len(row), -1) @ states.reshape(-1, width)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension where `mask` is True, exactly zero elsewhere."""
    return scores.masked_fill(~mask, float("-inf")).softmax(-1)
