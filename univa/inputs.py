"""From a training config to a corpus and to the batches that a model can take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from univa.config import TrainConfig
from univa.data import Collator, Corpus, Split, VANormalizer, read_authors_text, synthetic_corpus
from univa.errors import UserError
from univa.models import UniVA
from univa.tokenizer import load_tokenizer

__all__ = ["load_corpus", "load_tokenizer", "make_collator"]


def load_corpus(config: TrainConfig) -> Corpus:
    """Read or generate the corpus and check that the model of the config fits it.

    Args:
        config: the run.

    Returns:
        Three splits whose labels are those of the model, in its order.

    Raises:
        UserError: bad data, or data that the model does not fit.
    """
    data, model = config.data, config.model
    if data.source == "synthetic":
        # A field of SyntheticConfig is an argument of synthetic_corpus of the same name.
        corpus = synthetic_corpus(**vars(data.synthetic))
    else:
        if data.folder is None:
            raise UserError("no data folder: give --data FOLDER (with final_multi_labels.csv)")
        corpus = read_authors_text(
            Path(data.folder),
            va_file=Path(data.va_file) if data.va_file is not None else None,
            labels=model.labels,
            require_va=config.loss.alpha > 0,
        )
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
    return corpus


def make_collator(
    config: TrainConfig,
    split: Split,
    model: UniVA,
    *,
    tokenizer: Any = None,
    normalizer: VANormalizer | None = None,
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
    )
