"""Fused contrastive losses over a continuous label space.

    from univa_kernels import VASupConLoss
    loss = VASupConLoss(temperature=0.1, radius=0.25)(embeddings, valence_arousal)

The compiled extension serves when it is there; else plain PyTorch does. `build_info()` tells.
"""

from univa_kernels.backends import available_backends, build_info, use_backend
from univa_kernels.functional import (
    contrastive_terms,
    emotion_correlation_prior,
    va_supcon_loss,
)
from univa_kernels.losses import (
    CrossBatchMemory,
    EmotionCorrelationPrior,
    UniVALoss,
    VASupConLoss,
)
from univa_kernels.objective import UniVALossOutput, univa_loss
from univa_kernels.tuning import triton_tune

__version__ = "0.1.0"

__all__ = [
    "CrossBatchMemory",
    "EmotionCorrelationPrior",
    "UniVALoss",
    "UniVALossOutput",
    "VASupConLoss",
    "__version__",
    "available_backends",
    "build_info",
    "contrastive_terms",
    "emotion_correlation_prior",
    "triton_tune",
    "univa_loss",
    "use_backend",
    "va_supcon_loss",
]
