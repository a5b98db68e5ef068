"""Parameters of the authors' model under our names.

What differs in their code, and is the same number here:

- The pooler of the text encoder is frozen there and feeds nothing; here it does not exist, and
  its tensors are left out.
- Every dialogue is padded to the encoder's limit and encoded once per utterance there; padding
  and repetition change nothing.
- Query, key and value are three matrices there, one product here.
- Initial values are PyTorch's own there (`ModelConfig.initializer_range=None`), and the layers of
  an encoder start as copies of each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from univa.errors import UserError

__all__ = ["from_authors_state_dict", "start_as_authors"]

_LAYER = r"(text|audio|vision)_utt_level_transformer\.layer\.(\d+)\."
_END = r"\.(weight|bias)"
_RULES: tuple[tuple[str, str], ...] = (
    (r"text_plm\.(.+)", r"encoders.text.pretrained.\1"),
    (r"text_linear_(?:plm|glove)\.0" + _END, r"encoders.text.projection.\1"),
    (r"(audio|vision)_linear\.0" + _END, r"encoders.\1.projection.\2"),
    (
        r"(text|audio|vision)_utt_level_transformer\.position_embeddings\.weight",
        r"encoders.\1.position_embeddings.weight",
    ),
    (
        _LAYER + r"transformer_self_attention\.dense_norm\.dense" + _END,
        r"encoders.\1.layers.\2.attention.output.\3",
    ),
    (
        _LAYER + r"transformer_self_attention\.dense_norm\.LayerNorm" + _END,
        r"encoders.\1.layers.\2.attention_norm.\3",
    ),
    (_LAYER + r"intermediate\.dense" + _END, r"encoders.\1.layers.\2.expand.\3"),
    (_LAYER + r"output\.dense" + _END, r"encoders.\1.layers.\2.contract.\3"),
    (_LAYER + r"output\.LayerNorm" + _END, r"encoders.\1.layers.\2.feedforward_norm.\3"),
    (r"(text|audio|vision)_attention_mapping\.query_vector", r"poolings.\1.query"),
    (r"(text|audio|vision)_attention_mapping\.Q" + _END, r"poolings.\1.query_projection.\2"),
    (r"(text|audio|vision)_attention_mapping\.P" + _END, r"poolings.\1.state_projection.\2"),
    (r"(text|audio|vision)_attention_mapping\.value" + _END, r"poolings.\1.score.\2"),
    (r"fc\.0" + _END, r"classifier.\1"),
    (r"label_similar_matrix", r"similarity"),
)
_ATTENTION = re.compile(_LAYER + r"transformer_self_attention\.selfatt\.(query|key|value)" + _END)
_LEFT_OUT = re.compile(r"text_plm\.(pooler\..+|embeddings\.position_ids)")


def from_authors_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and join the tensors of an authors' checkpoint for `UniVA.load_state_dict`.

    It is linear, so it takes gradients as well as parameters.

    Args:
        state: tensors by the authors' names, with or without the prefix "module." that
            parallel training puts before every name.

    Returns:
        Tensors by the names of `UniVA`.

    Raises:
        UserError: a name is none of the authors', or one of query, key and value is missing.
    """
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    result: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if _LEFT_OUT.fullmatch(name):
            continue
        if match := _ATTENTION.fullmatch(name):
            modality, layer, part, kind = match.groups()
            joint = f"encoders.{modality}.layers.{layer}.attention.query_key_value.{kind}"
            parts.setdefault(joint, {})[part] = tensor
            continue
        for pattern, ours in _RULES:
            if match := re.fullmatch(pattern, name):
                result[match.expand(ours)] = tensor
                break
        else:
            raise UserError(f"{name!r} is not a parameter of the authors' model")
    for joint, found in parts.items():
        absent = [part for part in ("query", "key", "value") if part not in found]
        if absent:
            raise UserError(f"the {absent[0]} that goes into {joint!r} is missing")
        result[joint] = torch.cat([found["query"], found["key"], found["value"]])
    return result


@torch.no_grad()
def start_as_authors(encoders: Iterable[nn.Module]) -> None:
    """Give all layers of each encoder the initial values of its first one."""
    for encoder in encoders:
        layers = getattr(encoder, "layers", [])
        for layer in layers:
            layer.load_state_dict(layers[0].state_dict())
