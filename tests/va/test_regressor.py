"""The regressor of sound and pictures; tests/va/test_text.py has that of text."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPVisionModel,
    RobertaConfig,
    RobertaModel,
)

from tests.va.media_files import FAMILIES, clip, picture, speech_encoder, tone, vit
from univa.errors import UserError
from univa.media.decode import Clip, read_audio
from univa.media.encoders import load_encoder
from univa.va.regressor import VARegressor
from univa.va.text import TextVAScorer


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    files = [tone(folder / f"{k}.wav", seconds=0.1 + 0.2 * k, hertz=150 + 90 * k) for k in range(3)]
    return [Clip(path=path) for path in files]


def _head(scorer, pooled):
    raw = pooled @ scorer.head.weight.T + scorer.head.bias
    return (torch.tensor([0.1, -0.2]) + torch.tensor([3.0, 2.0]) * raw).clamp(-1, 1)


def _scaled(scorer):
    scorer.offset.copy_(torch.tensor([0.1, -0.2]))
    scorer.scale.copy_(torch.tensor([3.0, 2.0]))
    return scorer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("norm", ["layer", "group"])
def test_sound_is_scored_alike_in_any_batch(tmp_path, sounds, family, norm):
    folder = speech_encoder(tmp_path / "encoder", family, norm)
    torch.manual_seed(1)
    scorer = _scaled(VARegressor.from_encoder(folder, "audio", pooling="mean+max"))
    encoder = AutoModel.from_pretrained(folder).eval()
    expected = []
    for sound in sounds:
        samples = read_audio(sound, 16000)
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        with torch.no_grad():
            hidden = encoder(torch.from_numpy(samples)[None]).last_hidden_state[0]  # [T, H]
        expected.append(_head(scorer, torch.cat((hidden.mean(0), hidden.amax(0)))).detach())
    expected = torch.stack(expected)
    assert float(expected.std(0).min()) > 1e-4
    for batch_size in (1, 3):
        scores = scorer.score(sounds, batch_size=batch_size)
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)
    scorer.save_pretrained(tmp_path / "saved")
    loaded = VARegressor.from_pretrained(tmp_path / "saved", "audio")
    assert loaded.pooling == "mean+max"
    assert torch.equal(loaded.score(sounds), scorer.score(sounds))


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_pictures_are_scored_alike_in_any_batch(tmp_path, kind):
    folder = {"vit": vit, "clip": clip}[kind](tmp_path / "encoder")
    frames = [picture(tmp_path / "f" / f"{k}.png", level=50 * k, seed=k) for k in range(4)]
    alone = picture(tmp_path / "alone.png", level=220)
    scorer = _scaled(VARegressor.from_encoder(folder, "vision", frames=2))
    processor = AutoImageProcessor.from_pretrained(folder)
    encoder = (CLIPVisionModel if kind == "clip" else AutoModel).from_pretrained(folder).eval()

    def vector(path):
        with torch.no_grad():
            output = encoder(**processor(Image.open(path), return_tensors="pt"))
        return output.pooler_output[0] if kind == "clip" else output.last_hidden_state[0, 0]

    # Two of four frames: the middle ones of two halves.
    pooled = [torch.stack([vector(frames[1]), vector(frames[3])]).mean(0), vector(alone)]
    expected = _head(scorer, torch.stack(pooled)).detach()
    clips = [Clip(path=tmp_path / "f"), Clip(path=alone)]
    for batch_size in (1, 2):
        scores = scorer.score(clips, batch_size=batch_size)
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)
    scorer.save_pretrained(tmp_path / "saved")
    loaded = VARegressor.from_pretrained(tmp_path / "saved")
    assert loaded.preprocessor.frames == 2
    assert torch.equal(loaded.score(clips), scorer.score(clips))


def test_long_sounds_are_cut_and_short_ones_refused(tmp_path, sounds):
    folder = speech_encoder(tmp_path / "encoder")
    scorer = VARegressor.from_encoder(folder, "audio", max_seconds=0.2)
    beginning = [Clip(path=sound.path, end=0.2) for sound in sounds]
    whole = VARegressor.from_encoder(folder, "audio")
    whole.load_state_dict(scorer.state_dict())
    assert torch.equal(scorer.score(sounds), whole.score(beginning))
    assert whole.preprocessor.shortest == 400
    short = tone(tmp_path / "short.wav", seconds=0.02)
    with pytest.raises(
        UserError, match=r"short.wav: 0.0200 s of sound, and the encoder needs 0.02"
    ):
        scorer.score([Clip(path=short)])


def test_folder_of_an_older_version(tiny_encoder, tmp_path):
    """Before sound and pictures the config had no pooling; nothing else was different."""
    scorer = VARegressor.from_encoder(tiny_encoder, "text", max_tokens=16)
    scorer.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "text_encoder",
        "tokenizer",
    }
    old = {
        "kind": "univa-text-va",
        "dimensions": ["valence", "arousal"],
        "range": [-1.0, 1.0],
        "max_tokens": 16,
        "dropout": 0.1,
    }
    (tmp_path / "config.json").write_text(json.dumps(old))
    texts = ["a happy day", "!"]
    for kind in (VARegressor, TextVAScorer):
        assert torch.equal(kind.from_pretrained(tmp_path).score(texts), scorer.score(texts))


def test_encoders_of_other_modalities_are_refused(tmp_path, tiny_encoder):
    speech, pictures = speech_encoder(tmp_path / "speech"), vit(tmp_path / "vit")
    for source, modality, message in (
        (tiny_encoder, "audio", "bert does not encode raw samples"),
        (speech, "vision", "wav2vec2 is none of vit, deit, beit, dinov2, clip, siglip"),
        (pictures, "text", "vit does not encode text"),
        (speech, "text", "wav2vec2 does not encode text"),
        (tmp_path / "none", "audio", "no audio encoder could be loaded"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_encoder(source, modality)
        assert "\n" not in str(caught.value)


def test_encoder_without_its_weights(tmp_path):
    """A checkpoint that lacks a layer would be random there, and silent about it."""
    config = RobertaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    RobertaModel(config).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"num_hidden_layers": 2}))
    with pytest.raises(
        UserError, match=r"weights of the encoder are not in it \(such as .*layer.1"
    ):
        load_encoder(tmp_path, "text")
