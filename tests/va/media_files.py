"""Tiny encoders of sound and pictures, and files for them, all made here."""

from pathlib import Path

import numpy as np
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    HubertConfig,
    HubertModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
SPEECH = {
    **SMALL,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
PICTURES = {**SMALL, "image_size": 32, "patch_size": 16}
FAMILIES = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "hubert": (HubertConfig, HubertModel),
    "wavlm": (WavLMConfig, WavLMModel),
}


def speech_encoder(folder: Path, family="wav2vec2", norm="layer", **more) -> Path:
    """norm is "layer" as in the large models or "group" as in the base ones."""
    torch.manual_seed(0)
    config, model = FAMILIES[family]
    stable = norm == "layer"
    model(
        config(**SPEECH, feat_extract_norm=norm, do_stable_layer_norm=stable, **more)
    ).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=stable).save_pretrained(folder)
    return folder


def vit(folder: Path, **more) -> Path:
    torch.manual_seed(0)
    ViTModel(ViTConfig(**(PICTURES | more))).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    """Both towers, as CLIP folders have them."""
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**SMALL, "vocab_size": 50}, vision_config=PICTURES, projection_dim=8
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def tone(
    path: Path, *, seconds=0.4, hertz=200.0, loud=0.3, noise=0.0, rate=16000, channels=1
) -> Path:
    """A tone; a stereo file has it in the left channel only."""
    import soundfile

    times = np.arange(round(seconds * rate)) / rate
    samples = np.zeros((len(times), channels))
    hiss = np.random.default_rng(len(times)).normal(size=len(times))
    samples[:, 0] = loud * np.sin(2 * np.pi * hertz * times) + noise * hiss
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    return path


def picture(path: Path, *, level=100, seed=0, size=(50, 40)) -> Path:
    """A noisy grey picture."""
    from PIL import Image

    noise = np.random.default_rng(seed).integers(-20, 21, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((level + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def video(path: Path, *, frames=20, rate=10) -> Path:
    """Frame k is grey of level 10 k."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(frames):
            level = np.full((48, 64, 3), 10 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(level, format="rgb24")))
        container.mux(stream.encode())
    return path
