"""The text scorer by the name that the cards of older folders give."""

from __future__ import annotations

from univa.va.regressor import VARegressor

__all__ = ["TextVAScorer"]


class TextVAScorer(VARegressor):
    """`VARegressor` that loads folders of `univa va fit-text` only."""

    modality = "text"
