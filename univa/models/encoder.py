"""Modality encoders: a transformer over feature vectors, and a pretrained one over dialogues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from univa.errors import UserError, first_line
from univa.models.attention import SelfAttention
from univa.utils.quiet import no_progress_bar

__all__ = [
    "DialogueEncoder",
    "TransformerEncoder",
    "TransformerLayer",
    "initialize",
    "load_text_encoder",
    "token_limit",
]


class TransformerLayer(nn.Module):
    """Self-attention and a GELU feed-forward part, each with residual and layer norm after it.

    Args:
        hidden_size: D.
        num_heads: attention heads.
        feedforward_size: inner width of the feed-forward part.
        dropout: probability in attention and after each part.
        layer_norm_eps: epsilon of the layer norms.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        feedforward_size: int,
        *,
        dropout: float = 0.0,
        layer_norm_eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(hidden_size, num_heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.expand = nn.Linear(hidden_size, feedforward_size)
        self.contract = nn.Linear(feedforward_size, hidden_size)
        self.feedforward_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[B, T, D] and a [B, T] bool mask of real steps -> [B, T, D]."""
        states = self.attention_norm(states + self.dropout(self.attention(states, mask)))
        change = self.contract(F.gelu(self.expand(states)))
        return self.feedforward_norm(states + self.dropout(change))


class TransformerEncoder(nn.Module):
    """Projection of feature vectors, learned positions, transformer layers.

    Args:
        feature_size: F.
        hidden_size: D.
        num_layers: transformer layers; with none, projection and positions only.
        max_length: rows of the position embeddings.
        num_heads: attention heads.
        feedforward_size: inner width of the feed-forward parts.
        dropout: probability after the projection and in the layers.
        layer_norm_eps: epsilon of the layer norms.
    """

    def __init__(
        self,
        feature_size: int,
        hidden_size: int,
        *,
        num_layers: int,
        max_length: int,
        num_heads: int,
        feedforward_size: int,
        dropout: float = 0.0,
        layer_norm_eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(feature_size, hidden_size)
        self.position_embeddings = nn.Embedding(max_length, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(
                hidden_size,
                num_heads,
                feedforward_size,
                dropout=dropout,
                layer_norm_eps=layer_norm_eps,
            )
            for _ in range(num_layers)
        )

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Encode sequences of feature vectors.

        Args:
            features: [B, T, F], T at most `max_length`.
            mask: [B, T] bool, True at real steps. Other steps are computed but seen by none.

        Returns:
            [B, T, D].
        """
        positions = self.position_embeddings.weight[: features.shape[1]]  # [T, D]
        states = self.dropout(self.projection(features) + positions)
        for layer in self.layers:
            states = layer(states, mask)
        return states


class DialogueEncoder(nn.Module):
    """A pretrained text encoder over token rows, and the projection to the model's width.

    The encoder's pooler, if it has one, is taken off: nothing here looks at what it gives. The
    biases of its attention keys have gradient 0 in exact arithmetic: see `SelfAttention`.

    Args:
        pretrained: encoder with `config.hidden_size`; its output has `last_hidden_state`.
        hidden_size: D.
        dropout: probability after the projection (the encoder has its own).
        frozen: no gradients into the encoder and no dropout inside it.
    """

    def __init__(
        self, pretrained: nn.Module, hidden_size: int, *, dropout: float = 0.0, frozen: bool = False
    ) -> None:
        super().__init__()
        if getattr(pretrained, "pooler", None) is not None:
            pretrained.pooler = None  # type: ignore[assignment]
        self.pretrained = pretrained
        self.frozen = frozen
        self.projection = nn.Linear(pretrained.config.hidden_size, hidden_size)  # type: ignore[union-attr, arg-type]
        self.dropout = nn.Dropout(dropout)
        self.max_tokens = token_limit(pretrained)
        self.vocabulary_size: int = pretrained.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if frozen:
            pretrained.requires_grad_(False)

    def train(self, mode: bool = True) -> DialogueEncoder:
        """Switch dropout on or off; a frozen encoder stays without."""
        super().train(mode)
        if self.frozen:
            self.pretrained.eval()
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and their mask, both [G, T] int64 -> [G, T, D]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            output = self.pretrained(input_ids=input_ids, attention_mask=attention_mask)
        return self.dropout(self.projection(output.last_hidden_state))


def load_text_encoder(source: str | Path, *, weights: bool = True) -> nn.Module:
    """Make a transformers encoder.

    Args:
        source: folder (read without the hub) or hub name.
        weights: load the weights too; False gives random ones, for a checkpoint to fill.

    Returns:
        The encoder in float32.

    Raises:
        UserError: there is no such encoder, it is not an encoder, or it lacks weights.
    """
    from transformers import AutoConfig, AutoModel

    folder = Path(source).is_dir()
    if not folder and (Path(source).is_absolute() or str(source).count("/") > 1):
        raise UserError(f"{source}: no such folder; give the folder of a text encoder")
    missing: list[str] = []
    try:
        config = AutoConfig.from_pretrained(str(source), local_files_only=folder)
        if getattr(config, "is_encoder_decoder", False):
            raise UserError(
                f"{source}: {config.model_type} is an encoder-decoder; give an encoder such as "
                "RoBERTa or BERT"
            )
        with no_progress_bar():
            if weights:
                encoder, report = AutoModel.from_pretrained(
                    str(source), config=config, local_files_only=folder, output_loading_info=True
                )
                missing = sorted(report["missing_keys"])
            else:
                encoder = AutoModel.from_config(config)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = first_line(error)
        raise UserError(f"{source}: cannot load a text encoder: {reason}") from error
    missing = [key for key in missing if not key.startswith("pooler.")]
    if missing:
        raise UserError(
            f"{source}: no weights for {missing[0]!r} ({len(missing)} missing in all), they would "
            "stay random; give a whole encoder"
        )
    return encoder.float()


def token_limit(encoder: nn.Module) -> int | None:
    """Longest token row that an encoder takes, special tokens included; None: no fixed limit."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa numbers its positions from padding_idx + 1 on.
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - offset
    limit: Any = getattr(getattr(encoder, "config", None), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def initialize(module: nn.Module, spread: float) -> None:
    """Draw weights and position embeddings from N(0, spread^2) and clear the biases, as BERT does.

    Pooling queries keep their unit variance; layer norms start as the identity.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=spread)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=spread)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
