"""Emotion-correlation prior with the similarity matrix as a parameter."""

from __future__ import annotations

from torch import Tensor, nn

from univa_kernels import _checks
from univa_kernels.functional import PriorForm, emotion_correlation_prior

__all__ = ["EmotionCorrelationPrior"]


class EmotionCorrelationPrior(nn.Module):
    """Module form of `univa_kernels.emotion_correlation_prior`.

    Args:
        similarity: M, [L, L] floating; copied.
        form: "quadratic" (the slides) or "norm" (the authors' code).
        learnable: make M a parameter, as the authors do; a buffer otherwise.

    Raises:
        TypeError: `similarity` is not a floating tensor.
        ValueError: it is not square, or the form is unknown.

    Example:
        >>> import torch
        >>> from univa_kernels import EmotionCorrelationPrior
        >>> float(EmotionCorrelationPrior(torch.ones(2, 2))(torch.eye(2)))
        2.0
    """

    similarity: Tensor

    def __init__(
        self, similarity: Tensor, form: PriorForm = "quadratic", *, learnable: bool = False
    ) -> None:
        super().__init__()
        _checks.choice("form", form, ("quadratic", "norm"))
        _checks.embeddings_2d("similarity", similarity)
        if similarity.shape[0] != similarity.shape[1]:
            raise ValueError(f"similarity must be square [L, L], got {list(similarity.shape)}")
        self.form: PriorForm = form
        matrix = similarity.detach().clone()
        if learnable:
            self.similarity = nn.Parameter(matrix)
        else:
            self.register_buffer("similarity", matrix)

    def forward(self, predictions: Tensor) -> Tensor:
        """Return the prior of `predictions` [N, L], 0-dim."""
        return emotion_correlation_prior(predictions, self.similarity, form=self.form)

    def extra_repr(self) -> str:
        """Show the options in `repr`."""
        return f"labels={len(self.similarity)}, form={self.form!r}"
