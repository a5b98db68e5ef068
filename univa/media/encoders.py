"""Pre-trained encoders of the three modalities, loaded from folders that `transformers` wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel

from univa.batch import Modality
from univa.errors import UserError, first_line
from univa.utils.quiet import no_load_report

__all__ = ["LOADING_ERRORS", "check_encodes", "empty_encoder", "load_encoder"]

LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, RuntimeError, SafetensorError),
    *(AttributeError, TypeError),  # JSON of another shape than the library reads
)
_NOUN: dict[Modality, str] = {"text": "text", "audio": "audio", "vision": "vision"}
# What a checkpoint of another task may lack, and what nothing here uses.
_DISPENSABLE = ("pooler", "masked_spec_embed", "position_ids")
_VISION_TOWERS = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}
_CLASS_TOKEN = ("vit", "deit", "beit", "dinov2", "clip_vision_model", "siglip_vision_model")


def load_encoder(source: str | Path, modality: Modality) -> nn.Module:
    """Load an encoder with its weights, in float32.

    Args:
        source: a folder that `save_pretrained` wrote, or a hub name.
        modality: what it must be able to encode. Audio: a wav2vec2, HuBERT, WavLM or other
            encoder of raw samples. Vision: a ViT, DeiT, DINOv2 or BEiT, or the vision part of a
            CLIP or SigLIP.

    Raises:
        UserError: it cannot be loaded, lacks weights, or encodes something else.
    """
    noun = _NOUN[modality]
    local = Path(source).is_dir()
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
        check_encodes(source, config, modality)
        if modality == "audio":
            # It masks spans of 10 steps, and fails on a clip of fewer.
            config.apply_spec_augment = False
        with no_load_report():
            encoder, info = _class(config).from_pretrained(
                source,
                config=_part(config),
                local_files_only=local,
                output_loading_info=True,
            )
    except LOADING_ERRORS as error:
        raise UserError(
            f"{source}: no {noun} encoder could be loaded from it "
            f"({first_line(error)}); give a folder written by save_pretrained, or a hub name"
        ) from None
    missing = [k for k in info["missing_keys"] if not any(part in k for part in _DISPENSABLE)]
    if missing:
        raise UserError(
            f"{source}: {len(missing)} weights of the encoder are not in it (such as "
            f"{sorted(missing)[0]}); give a folder whose weights belong to its config.json"
        )
    return encoder.float()


def empty_encoder(folder: Path) -> nn.Module:
    """An encoder without trained weights, by the `config.json` of a folder."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    make: Callable[..., nn.Module]
    make = getattr(_class(config), "_from_config", None) or _class(config).from_config
    return make(config)


def check_encodes(source: str | Path, config: Any, modality: Modality) -> None:
    """Refuse an encoder of another modality.

    Raises:
        UserError: the config is of something else.
    """
    kind = config.model_type
    if modality == "audio":
        if not hasattr(config, "conv_kernel") or not hasattr(config, "conv_stride"):
            raise UserError(
                f"{source}: {kind} does not encode raw samples; give a wav2vec2, HuBERT or WavLM"
            )
        if getattr(config, "add_adapter", False):
            raise UserError(f"{source}: a {kind} with an adapter; give one without")
    elif modality == "vision":
        if kind not in (*_VISION_TOWERS, *_CLASS_TOKEN):
            raise UserError(
                f"{source}: {kind} is none of {', '.join((*_CLASS_TOKEN[:4], *_VISION_TOWERS))}; "
                "give one of them"
            )
    elif getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
        raise UserError(f"{source}: {kind} is no plain encoder; give another one")
    elif not hasattr(config, "vocab_size") or hasattr(config, "conv_kernel"):
        raise UserError(f"{source}: {kind} does not encode text; give a BERT-like encoder")


def _part(config: Any) -> Any:
    """The config of the vision tower where the folder has two towers."""
    return config.vision_config if config.model_type in _VISION_TOWERS else config


def _class(config: Any) -> Any:
    name = _VISION_TOWERS.get(config.model_type.removesuffix("_vision_model"))
    return AutoModel if name is None else getattr(transformers, name)
