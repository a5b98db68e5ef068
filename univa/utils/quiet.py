"""Keeps transformers' own bars and reports off the terminal while weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_load_report", "no_progress_bar"]


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep transformers' bar over the weights of one file off the terminal."""
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


@contextmanager
def no_load_report() -> Iterator[None]:
    """The same, and no table of the weights that a checkpoint has too many or too few.

    For callers that look at the missing ones themselves: the other tower of a CLIP is a long table.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_progress_bar():
            yield
    finally:
        logging.set_verbosity(verbosity)
