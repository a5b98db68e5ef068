"""A regressor of valence and arousal from text: any transformer encoder, mean-pooled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from univa.console import progress as show_progress
from univa.errors import UserError
from univa.tokenizer import load_tokenizer

__all__ = ["DIMENSIONS", "TextVAScorer", "length_buckets"]

DIMENSIONS = ("valence", "arousal")

_KIND = "univa-text-va"
_ENCODER, _TOKENIZER = "text_encoder", "tokenizer"


class TextVAScorer(nn.Module):
    """Encoder, mean over the tokens, dropout, one linear layer.

    The linear layer predicts standardised scores; `offset` and `scale`, taken from the training
    targets, bring them to [-1, 1]. So the loss sees two dimensions of like size from the start.

    Args:
        encoder: a `transformers` encoder whose output has `last_hidden_state`.
        tokenizer: the tokenizer that belongs to it.
        max_tokens: longer sentences are cut to this many tokens, special tokens included.
        dropout: probability of dropout before the linear layer.
    """

    offset: Tensor
    scale: Tensor

    def __init__(
        self, encoder: nn.Module, tokenizer: Any, *, max_tokens: int = 64, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(cast(Any, encoder).config.hidden_size, len(DIMENSIONS))
        self.register_buffer("offset", torch.zeros(len(DIMENSIONS)))
        self.register_buffer("scale", torch.ones(len(DIMENSIONS)))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def from_encoder(
        cls, source: str | Path, *, max_tokens: int = 64, dropout: float = 0.1
    ) -> TextVAScorer:
        """Put a new head on a pre-trained encoder.

        Args:
            source: a folder that `AutoModel` and `AutoTokenizer` can load, or a hub name.
            max_tokens: as the class.
            dropout: as the class.

        Raises:
            UserError: `source` cannot be loaded, is no plain encoder, or has fewer positions
                than `max_tokens`.
        """
        try:
            config = AutoConfig.from_pretrained(source)
            encoder = AutoModel.from_pretrained(source, config=config).float()
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(
                f"{source}: no text encoder could be loaded from it "
                f"({_first_line(error)}); give a folder written by save_pretrained, or a hub name"
            ) from None
        if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
            raise UserError(f"{source}: {config.model_type} is no plain encoder; give another one")
        scorer = cls(encoder, load_tokenizer(source), dropout=dropout)
        scorer.set_max_tokens(max_tokens)
        return scorer

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.head.weight.device

    def set_max_tokens(self, max_tokens: int) -> None:
        """Cut sentences to so many tokens from now on.

        Raises:
            UserError: the encoder has fewer positions, or no room is left for a word.
        """
        config = cast(Any, self.encoder).config
        # RoBERTa keeps two of its position rows for padding; its tokenizer knows.
        positions = min(
            getattr(config, "max_position_embeddings", None) or max_tokens,
            self.tokenizer.model_max_length,
        )
        if not 3 <= max_tokens <= positions:
            raise UserError(
                f"max_tokens: {max_tokens} is not between 3 and the {positions} positions of the "
                "encoder; give another number"
            )
        self.max_tokens = max_tokens

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Score token rows.

        Args:
            input_ids: [N, T] int64 token ids.
            attention_mask: [N, T] int64, 1 at real tokens, at least one per row.

        Returns:
            [N, 2] (valence, arousal), not clipped.
        """
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state  # [N, T, H]
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)  # [N, T, 1]
        pooled = (hidden * weight).sum(1) / weight.sum(1)  # [N, H]
        return self.offset + self.scale * self.head(self.dropout(pooled))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut to `max_tokens`."""
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, return_attention_mask=False
        )
        return encoded["input_ids"]

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Input ids and attention mask, [N, longest row] int64 each, on the model's device."""
        width = max(len(row) for row in rows)
        padding = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return ids.to(self.device), mask.to(self.device)

    @torch.no_grad()
    def score(
        self, texts: Sequence[str], *, batch_size: int = 64, progress: bool = False
    ) -> Tensor:
        """Score texts in batches of like length, without dropout.

        Args:
            texts: N texts.
            batch_size: texts per batch.
            progress: draw a progress bar on standard error.

        Returns:
            [N, 2] float32 on the CPU: (valence, arousal) clipped to [-1, 1], in the order of
            `texts`.
        """
        rows = self.tokenize(texts) if texts else []
        scores = torch.empty(len(rows), len(DIMENSIONS))
        was_training = self.training
        self.eval()
        try:
            batches = list(length_buckets([len(row) for row in rows], batch_size))
            for batch in show_progress(batches, "scoring", unit="batch", enabled=progress):
                scores[batch] = self(*self.pad([rows[i] for i in batch])).clamp(-1, 1).float().cpu()
        finally:
            self.train(was_training)
        return scores

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, `model.safetensors`, the encoder's config and the tokenizer.

        The files are written in place: a caller that must not leave a partial folder behind
        gives a temporary one and renames it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        cast(Any, self.encoder).config.save_pretrained(folder / _ENCODER)
        self.tokenizer.save_pretrained(folder / _TOKENIZER)
        save_model(self, str(folder / "model.safetensors"))
        config = {
            "kind": _KIND,
            "dimensions": list(DIMENSIONS),
            "range": [-1.0, 1.0],
            "max_tokens": self.max_tokens,
            "dropout": self.dropout.p,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TextVAScorer:
        """Load what `save_pretrained` wrote; needs no network. The model is in eval mode.

        Raises:
            UserError: a file is missing, is of another kind, or does not fit the others.
        """
        folder = Path(folder)
        path = folder / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(config, dict) or config.get("kind") != _KIND:
                raise ValueError(f"its kind is not {_KIND!r}")
            max_tokens, dropout = int(config["max_tokens"]), float(config["dropout"])
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file; give a folder that `univa va fit-text` wrote"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: not the config of a text VA scorer ({_first_line(error)}); "
                "give a folder that `univa va fit-text` wrote"
            ) from None
        try:
            if not (folder / _TOKENIZER).is_dir():  # its name must not become a hub name
                raise FileNotFoundError(f"no folder {_TOKENIZER}")
            tokenizer = load_tokenizer(folder / _TOKENIZER)
            encoder = AutoModel.from_config(
                AutoConfig.from_pretrained(folder / _ENCODER, local_files_only=True)
            )
            scorer = cls(encoder, tokenizer, max_tokens=max_tokens, dropout=dropout)
            load_model(scorer, folder / "model.safetensors")
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"{folder}: the scorer's files are missing or do not fit each other "
                f"({_first_line(error)}); fit it again"
            ) from None
        return scorer.eval()


def length_buckets(
    lengths: Sequence[int], batch_size: int, *, generator: torch.Generator | None = None
) -> Iterator[list[int]]:
    """Group indices so that the rows of a batch are of like length and padding is small.

    Args:
        lengths: length of each of N rows.
        batch_size: rows per batch, the last one perhaps fewer.
        generator: without it, batches go from long rows to short ones (the largest batch first,
            so that too little memory shows at once). With it, rows are shuffled, sorted only
            within pools of 50 batches, and the batches of a pool shuffled: random enough to train.

    Yields:
        Indices of one batch; each index of 0..N-1 occurs in exactly one batch.
    """
    if generator is None:
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        yield from (order[i : i + batch_size] for i in range(0, len(order), batch_size))
        return
    order = torch.randperm(len(lengths), generator=generator).tolist()
    pool_size = 50 * batch_size
    for start in range(0, len(order), pool_size):
        pool = sorted(order[start : start + pool_size], key=lambda i: lengths[i])
        batches = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        for k in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[k]


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
