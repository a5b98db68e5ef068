"""Tokenizers of text encoders, for the model's data and for the text scorer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from univa.errors import UserError, first_line

__all__ = ["load_tokenizer"]


def load_tokenizer(folder: str | Path) -> Any:
    """Load the tokenizer that belongs to a text encoder.

    Args:
        folder: folder or hub name for `transformers.AutoTokenizer`.

    Raises:
        UserError: there is none, or it knows no words.
    """
    from transformers import AutoTokenizer  # seconds of import time that word vectors do not need

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=Path(folder).is_dir()
        )
    except (OSError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise UserError(
            f"{folder}: no usable tokenizer ({reason}); give another text encoder"
        ) from error
    # Without tokenizer files transformers makes up a tokenizer that knows its special tokens only.
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    if not any(character.isalnum() for word in words for character in word):
        raise UserError(
            f"{folder}: no usable tokenizer (its vocabulary is empty); add the tokenizer's files, "
            "or give another text encoder"
        )
    return tokenizer
