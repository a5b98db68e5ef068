"""The losses as modules, one in a file."""

from univa_kernels.losses.correlation_prior import EmotionCorrelationPrior
from univa_kernels.losses.cross_batch_memory import CrossBatchMemory
from univa_kernels.losses.univa import UniVALoss
from univa_kernels.losses.va_supcon import VASupConLoss

__all__ = ["CrossBatchMemory", "EmotionCorrelationPrior", "UniVALoss", "VASupConLoss"]
