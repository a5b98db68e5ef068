"""A regressor of valence and arousal from text, sound or pictures: encoder, pooling, one layer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from univa.batch import Modality
from univa.errors import UserError, first_line
from univa.media.encoders import LOADING_ERRORS, empty_encoder, load_encoder
from univa.media.preprocess import PREPROCESSORS, EncoderInputs, Preprocessor
from univa.utils.console import progress as show_progress

__all__ = ["DIMENSIONS", "Pooling", "Scorer", "VARegressor", "batches_by_length", "score"]

DIMENSIONS = ("valence", "arousal")
Pooling = Literal["mean", "mean+max"]

_ENCODER: dict[Modality, str] = {m: f"{m}_encoder" for m in PREPROCESSORS}
_PROCESSOR: dict[Modality, str] = {"text": "tokenizer", "audio": "processor", "vision": "processor"}


class FinishedItems(Protocol):
    """What `univa.media.resume.ItemLog` is to `score`."""

    done: dict[str, Any]

    def keep(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        """Note what came of the items of a batch."""
        ...


class Scorer(nn.Module):
    """What gives valence and arousal of items of one modality.

    `preprocessor` makes batches of items, `forward` scores a batch: [B, 2] (valence, arousal).
    """

    preprocessor: Preprocessor

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def on_device(self, rows: Sequence[Any]) -> EncoderInputs:
        """A batch of rows where the parameters are."""
        return {
            name: value.to(self.device) for name, value in self.preprocessor.batch(rows).items()
        }

    def score(
        self, items: Sequence[Any], *, batch_size: int = 64, progress: bool = False
    ) -> Tensor:
        """Score items; see `score`."""
        return score(self, items, batch_size=batch_size, progress=progress)


class VARegressor(Scorer):
    """Encoder, pooling over its states, dropout, one linear layer.

    The linear layer predicts standardised scores; `offset` and `scale`, taken from the training
    targets, bring them to [-1, 1]. So the loss sees two dimensions of like size from the start.

    Args:
        encoder: of `transformers`.
        preprocessor: makes the encoder's input.
        dropout: probability of dropout before the linear layer.
        pooling: mean over the real states, or mean and maximum side by side.
    """

    offset: Tensor
    scale: Tensor
    modality: ClassVar[Modality | None] = None

    def __init__(
        self,
        encoder: nn.Module,
        preprocessor: Preprocessor,
        *,
        dropout: float = 0.1,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.preprocessor = preprocessor
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        width = cast(Any, encoder).config.hidden_size * len(pooling.split("+"))
        self.head = nn.Linear(width, len(DIMENSIONS))
        self.register_buffer("offset", torch.zeros(len(DIMENSIONS)))
        self.register_buffer("scale", torch.ones(len(DIMENSIONS)))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def from_encoder(
        cls,
        source: str | Path,
        modality: Modality,
        *,
        dropout: float = 0.1,
        pooling: Pooling = "mean",
        **settings: Any,
    ) -> VARegressor:
        """Put a new head on a pre-trained encoder.

        Args:
            source: a folder that `save_pretrained` wrote, with tokenizer or preprocessor, or a
                hub name.
            modality: what it encodes.
            dropout: as the class.
            pooling: as the class.
            settings: of the preprocessor: `max_tokens`, `max_seconds` or `frames`.

        Raises:
            UserError: `source` cannot be loaded, or does not fit the modality or the settings.
        """
        encoder = load_encoder(source, modality)
        preprocessor = PREPROCESSORS[modality].load(source, cast(Any, encoder).config, **settings)
        return cls(encoder, preprocessor, dropout=dropout, pooling=pooling)

    def pooled(self, batch: EncoderInputs) -> Tensor:
        """Pooled states of the encoder, [B, H] or [B, 2 H]."""
        hidden, mask = self.preprocessor.states(self.encoder, batch)  # [B, T, H], [B, T]
        weight = mask.unsqueeze(-1).to(hidden.dtype)  # [B, T, 1]
        mean = (hidden * weight).sum(1) / weight.sum(1)
        if self.pooling == "mean":
            return mean
        highest = hidden.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)
        return torch.cat((mean, highest), dim=1)

    def head_scores(self, pooled: Tensor) -> Tensor:
        """Scores of pooled states: [B, 2], not clipped."""
        return self.offset + self.scale * self.head(self.dropout(pooled))

    def forward(self, batch: EncoderInputs) -> Tensor:
        """Score a batch: [B, 2] (valence, arousal), not clipped."""
        return self.head_scores(self.pooled(batch))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, `model.safetensors`, the encoder's config and its processor.

        The files are written in place: a caller that must not leave a partial folder behind
        gives a temporary one and renames it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        modality = self.preprocessor.modality
        cast(Any, self.encoder).config.save_pretrained(folder / _ENCODER[modality])
        self.preprocessor.save(folder / _PROCESSOR[modality])
        save_model(self, str(folder / "model.safetensors"))
        config = {
            "kind": f"univa-{modality}-va",
            "dimensions": list(DIMENSIONS),
            "range": [-1.0, 1.0],
            "pooling": self.pooling,
            "dropout": self.dropout.p,
            **self.preprocessor.settings(),
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, modality: Modality | None = None, **settings: Any
    ) -> VARegressor:
        """Load what `save_pretrained` wrote; needs no network. The model is in eval mode.

        Args:
            folder: the folder.
            modality: what it must score; None takes any.
            settings: of the preprocessor, in place of those of the fit.

        Raises:
            UserError: a file is missing, is of another kind, or does not fit the others.
        """
        folder, modality = Path(folder), modality or cls.modality
        path = folder / "config.json"
        noun = {None: "a VA scorer", "audio": "an audio VA scorer"}.get(
            modality, f"a {modality} VA scorer"
        )
        command = f"univa va fit-{modality or 'text'}"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            found = next((m for m in PREPROCESSORS if config.get("kind") == f"univa-{m}-va"), None)
            if found is None or found != (modality or found):
                raise ValueError(f"its kind is {config.get('kind')!r}")
            pooling, dropout = config.get("pooling", "mean"), float(config["dropout"])
            if pooling not in ("mean", "mean+max"):
                raise ValueError(f"unknown pooling {pooling!r}")
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; give a folder that `{command}` wrote") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: not the config of {noun} ({first_line(error)}); "
                f"give a folder that `{command}` wrote"
            ) from None
        wanted = {**config, **{name: value for name, value in settings.items() if value}}
        try:
            processor = folder / _PROCESSOR[found]
            if not processor.is_dir():  # its name must not become a hub name
                raise FileNotFoundError(f"no folder {processor.name}")
            encoder = empty_encoder(folder / _ENCODER[found])
            preprocessor = PREPROCESSORS[found].load(processor, cast(Any, encoder).config, **wanted)
            scorer = cls(encoder, preprocessor, dropout=dropout, pooling=pooling)
            load_model(scorer, folder / "model.safetensors")
        except LOADING_ERRORS as error:
            raise UserError(
                f"{folder}: the scorer's files are missing or do not fit each other "
                f"({first_line(error)}); fit it again"
            ) from None
        return scorer.eval()


@torch.no_grad()
def score(
    scorer: Scorer,
    items: Sequence[Any],
    *,
    batch_size: int = 64,
    progress: bool = False,
    keys: Sequence[str] | None = None,
    log: FinishedItems | None = None,
) -> Tensor:
    """Score items in batches of like length, without dropout.

    Args:
        scorer: whose.
        items: N texts or clips.
        batch_size: items per batch.
        progress: draw a progress bar on standard error.
        keys: of the items in `log`.
        log: what an earlier run has finished is taken from it, the rest is kept in it.

    Returns:
        [N, 2] float32 on the CPU: (valence, arousal) clipped to [-1, 1], in the order of `items`.
    """
    rows = scorer.preprocessor.rows(items)
    scores = torch.empty(len(rows), len(DIMENSIONS))
    was_training = scorer.training
    scorer.eval()
    try:
        batches = list(batches_by_length(scorer.preprocessor.lengths(rows), batch_size))
        bar = show_progress(batches, "scoring", unit="batch", enabled=progress)
        for batch in bar:
            names = [keys[i] for i in batch] if keys is not None else []
            if log is not None and all(name in log.done for name in names):
                scores[batch] = torch.tensor([log.done[name] for name in names])
                continue
            points = scorer(scorer.on_device([rows[i] for i in batch])).clamp(-1, 1).float().cpu()
            scores[batch] = points
            if log is not None:
                log.keep(names, points.tolist())
    finally:
        scorer.train(was_training)
    return scores


def batches_by_length(
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
