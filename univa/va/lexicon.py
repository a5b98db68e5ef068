"""The NRC-VAD lexicon: see `univa.data.lexicon`."""

from univa.data.lexicon import similarity_matrix

__all__ = ["similarity_matrix"]
