"""Drop-in replacements for other implementations: change the import, nothing else.

- `authors`: `VA_aware_SupConLoss` of the UniVA authors' repository.
- `supcontrast`: `SupConLoss` of the repository SupContrast.
- `metric_learning`: `SupConLoss` of the package pytorch-metric-learning.

What each does differently, and why, is in its docstring and in docs/migration.md. None of the
originals needs to be installed.
"""

from univa_kernels.compat import authors, metric_learning, supcontrast
from univa_kernels.compat.authors import VA_aware_SupConLoss

__all__ = ["VA_aware_SupConLoss", "authors", "metric_learning", "supcontrast"]
