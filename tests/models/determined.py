"""The part of a model's parameters that its loss determines.

Adding a constant to all scores of a softmax changes nothing, so the loss does not depend on the
bias of a score, nor on that of attention keys: their true gradient is 0, the computed one is
rounding noise, and Adam turns noise into whole steps. Two runs cannot be compared by them.
"""

import torch
from torch import Tensor


def determined(name: str, tensor: Tensor) -> Tensor:
    """What the loss determines of a parameter, its gradient or its Adam moment; maybe empty."""
    if name.endswith((".score.bias", ".key.bias")):
        return tensor[:0]
    if name.endswith(".query_key_value.bias"):
        query, _, value = tensor.chunk(3)
        return torch.cat([query, value])
    return tensor


def undetermined(name: str, tensor: Tensor) -> Tensor:
    """The rest of it."""
    if name.endswith((".score.bias", ".key.bias")):
        return tensor
    if name.endswith(".query_key_value.bias"):
        return tensor.chunk(3)[1]
    return tensor[:0]
