"""UniVA: unimodal valence-arousal driven contrastive learning for emotion recognition.

Zheng, Yu and Xia, ACM Multimedia 2024, https://doi.org/10.1145/3664647.3681638.
"""

from typing import TYPE_CHECKING, Any

from univa._version import __version__

if TYPE_CHECKING:
    from univa.inference.pipeline import UniVAPipeline, UtterancePrediction

__all__ = ["UniVAPipeline", "UtterancePrediction", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the pipeline, and torch with it, when it is asked for."""
    if name in ("UniVAPipeline", "UtterancePrediction"):
        from univa.inference import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
