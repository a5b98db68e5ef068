"""From a training config to a corpus and to the batches that a model can take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from univa.config import TrainConfig
from univa.data import (
    AuthorsNormalizer,
    Collator,
    Corpus,
    DialogueBatchSampler,
    Normalizer,
    Split,
    UtteranceBatchSampler,
    VANormalizer,
    read_authors,
    read_authors_text,
    read_store,
    read_vectors,
    synthetic_corpus,
)
from univa.data.store.read import MANIFEST, PROGRESS
from univa.errors import UserError
from univa.models import UniVA
from univa.utils.tokenizer import load_tokenizer

__all__ = [
    "check_corpus",
    "load_corpus",
    "load_tokenizer",
    "make_collator",
    "make_normalizer",
    "make_sampler",
]


def load_corpus(config: TrainConfig) -> Corpus:
    """Read or generate the corpus and check that the model of the config fits it.

    Args:
        config: the run.

    Returns:
        Three splits whose labels are those of the model, in its order.

    Raises:
        UserError: bad data, or data that the model does not fit.
    """
    corpus = _READERS[config.data.source](config)
    check_corpus(config, corpus)
    return corpus


def check_corpus(config: TrainConfig, corpus: Corpus) -> None:
    """Check that the model of a config fits a corpus.

    Args:
        config: the run.
        corpus: its data, with every modality of the model.

    Raises:
        UserError: labels, modalities or sizes of features are not those of the model.
    """
    model = config.model
    if corpus.label_names != model.labels:
        raise UserError(
            f"--model.labels is {' '.join(model.labels)} but {corpus.source} has "
            f"{' '.join(corpus.label_names)}; give the labels of the data in their order"
        )
    sizes = {"text": model.text_dim, "audio": model.audio_dim, "vision": model.vision_dim}
    for modality in model.modalities:
        if modality == "text" and config.uses_tokens:
            continue
        found = corpus.feature_sizes.get(modality)
        if found is None:
            raise UserError(
                f"{corpus.source} has no {modality} features; take {modality} out of "
                "--model.modalities"
            )
        if found != sizes[modality]:
            raise UserError(
                f"--model.{modality}-dim is {sizes[modality]} but the {modality} features of "
                f"{corpus.source} have {found} columns; give --model.{modality}-dim {found}"
            )
    if config.loss.alpha > 0 and not set(model.modalities) & set(corpus.coordinate_modalities):
        raise UserError(
            f"{corpus.source} has no valence-arousal scores of {' or '.join(model.modalities)}, "
            "which the contrastive loss needs; give scores, or --loss.alpha 0"
        )


def _synthetic(config: TrainConfig) -> Corpus:
    # A field of SyntheticConfig is an argument of synthetic_corpus of the same name.
    return synthetic_corpus(**vars(config.data.synthetic))


def _vectors(config: TrainConfig) -> Corpus:
    valid_fraction = config.data.valid_fraction
    path = _path(config, "FILE (safetensors)")
    return read_vectors(path, va_file=_va_file(config), valid_fraction=valid_fraction)


def _authors_text(config: TrainConfig) -> Corpus:
    return read_authors_text(
        _path(config, "FOLDER"),
        va_file=_va_file(config),
        labels=config.model.labels,
        require_va=config.loss.alpha > 0,
    )


def _authors(config: TrainConfig) -> Corpus:
    folder, require_va = _path(config, "FOLDER"), config.loss.alpha > 0
    if not ((folder / MANIFEST).exists() or (folder / PROGRESS).exists()):
        return read_authors(
            folder,
            modalities=config.model.modalities,
            text=_text(config),
            va_file=_va_file(config),
            require_va=require_va,
        )
    corpus = _store(config)
    # As where the layout itself is read; a store of another corpus may have scores of a part.
    needed = require_va and "text" in config.model.modalities
    if needed and "text" not in corpus.coordinate_modalities:
        raise UserError(
            f"{folder}: no valence-arousal scores of the text in this store; put "
            "preprocess_data/raw_utt_text_textVA.json into the folder that it was made of and "
            "convert that into another store, or give --loss.alpha 0"
        )
    return corpus


def _store(config: TrainConfig) -> Corpus:
    folder = _path(config, "STORE")
    if config.data.va_file is not None:
        raise UserError(f"--va-file: the store {folder} has scores of its own; drop --va-file")
    return read_store(folder, modalities=config.model.modalities, text=_text(config))


_READERS: dict[str, Callable[[TrainConfig], Corpus]] = {
    "synthetic": _synthetic,
    "vectors": _vectors,
    "authors-text": _authors_text,
    "authors": _authors,
    "store": _store,
}
"""The reader of each `--data.source`."""


def _path(config: TrainConfig, what: str) -> Path:
    if config.data.folder is None:
        raise UserError(f"no data: give --data {what}, see `univa train {config.preset} --help`")
    return Path(config.data.folder)


def _va_file(config: TrainConfig) -> Path | None:
    return None if config.data.va_file is None else Path(config.data.va_file)


def _text(config: TrainConfig) -> Literal["tokens", "vectors"]:
    return "tokens" if config.uses_tokens else "vectors"


def make_sampler(
    config: TrainConfig, collator: Collator, *, rank: int = 0, world_size: int = 1
) -> DialogueBatchSampler | UtteranceBatchSampler:
    """What decides which utterances make a batch of the training split.

    Args:
        config: the run.
        collator: of the training split; tells how long its dialogues are.
        rank: this process.
        world_size: number of processes.

    Raises:
        UserError: there is nothing to sample.
    """
    data, lengths = config.data, collator.split.dialogue_lengths
    if data.sampler == "utterances":
        return UtteranceBatchSampler(
            sum(lengths),
            batch_size=data.batch_size,
            seed=config.seed,
            rank=rank,
            world_size=world_size,
        )
    return DialogueBatchSampler(
        lengths,
        batch_size=data.batch_size,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        dialogue_tokens=collator.dialogue_tokens,
        batch_tokens=data.batch_tokens,
    )


def make_normalizer(config: TrainConfig, train: Split) -> Normalizer:
    """What normalises the scores of the training split.

    Args:
        config: the run.
        train: its training split.

    Raises:
        UserError: the scores cannot be normalised.
    """
    if config.data.authors:
        vectors = "text" in config.model.modalities and not config.uses_tokens
        return AuthorsNormalizer(twice=("text",) if vectors else ())
    return VANormalizer.fit(train)


def make_collator(
    config: TrainConfig,
    split: Split,
    model: UniVA,
    *,
    tokenizer: Any = None,
    normalizer: Normalizer | None = None,
) -> Collator:
    """Make the collator that turns utterances of a split into batches for the model.

    Args:
        config: the run.
        split: one split of `load_corpus`.
        model: tells how long a token row can be.
        tokenizer: of the text encoder; None with word vectors.
        normalizer: of valence and arousal, fitted on the training split; None leaves them raw,
            which is enough where no loss is computed.

    Raises:
        UserError: token rows would be longer than the text encoder takes.
    """
    if (
        config.uses_tokens
        and model.max_tokens is not None
        and config.data.max_tokens > model.max_tokens
    ):
        raise UserError(
            f"--data.max-tokens is {config.data.max_tokens} but the text encoder takes "
            f"{model.max_tokens} tokens at most; give --data.max-tokens {model.max_tokens}"
        )
    return Collator(
        split,
        modalities=config.model.modalities,
        text="tokens" if config.uses_tokens else "vectors",
        tokenizer=tokenizer,
        max_tokens=config.data.max_tokens,
        context=config.data.context,
        max_lengths={
            "text": config.model.max_text_length,
            "audio": config.model.max_audio_length,
            "vision": config.model.max_vision_length,
        },
        normalizer=normalizer,
        authors=config.data.authors,
        full=config.data.padding == "full",
        buckets=config.data.buckets,
    )
