"""Regression models of others: the layout of dimensional speech models, and stock ones."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

from tests.va.media_files import FAMILIES, PICTURES, SPEECH, picture, speech_encoder, tone
from univa.cli import main
from univa.errors import UserError
from univa.media.decode import Clip, read_audio
from univa.va.hub import HubScorer
from univa.va.regressor import VARegressor

NAMES = ("arousal", "dominance", "valence")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    files = [
        tone(folder / f"{k}.wav", seconds=0.1 + 0.15 * k, hertz=150 + 90 * k, loud=0.1 + 0.2 * k)
        for k in range(4)
    ]
    return [Clip(path=path) for path in files]


@pytest.fixture(scope="module", params=FAMILIES)
def dimensional(request, tmp_path_factory):
    """A random model in the layout of audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim.

    `config.json` names a class that transformers does not have; the weights of the position
    convolution have the names of torch before 2.0.
    """
    family = request.param
    folder = speech_encoder(tmp_path_factory.mktemp("dimensional"), family)
    encoder = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(4)
    head = {
        "classifier.dense.weight": torch.randn(16, 16, generator=generator) / 2,
        "classifier.dense.bias": torch.randn(16, generator=generator) / 4,
        "classifier.out_proj.weight": torch.randn(3, 16, generator=generator) / 4,
        "classifier.out_proj.bias": torch.tensor([0.4, 0.5, 0.6]),
    }
    old = {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    renamed = {}
    for name, value in encoder.items():
        for new, before in old.items():
            name = name.replace(new, before)
        renamed[f"{family}.{name}"] = value
    assert sum(name.endswith(("weight_g", "weight_v")) for name in renamed) == 2
    save_file({**renamed, **head}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "architectures": ["Wav2Vec2ForSpeechClassification"],
        "id2label": dict(enumerate(NAMES)),
        "label2id": {name: i for i, name in enumerate(NAMES)},
        "finetuning_task": "wav2vec2_reg",
        "problem_type": "regression",
    }
    (folder / "config.json").write_text(json.dumps(config))

    def expected(clips):
        return _expected(family, encoder, head, clips)

    return folder, expected


def _expected(family, encoder_weights, head, clips):
    """Outputs of the published model, from its description: one file at a time, no padding."""
    config, model = FAMILIES[family]
    encoder = model(config(**SPEECH, feat_extract_norm="layer", do_stable_layer_norm=True)).eval()
    encoder.load_state_dict(encoder_weights)
    outputs = []
    for clip in clips:
        sound = read_audio(clip, 16000).astype(np.float64)
        sound = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        with torch.no_grad():
            states = encoder(torch.tensor(sound, dtype=torch.float32)[None]).last_hidden_state[0]
        hidden = states.mean(0)
        dense = torch.tanh(head["classifier.dense.weight"] @ hidden + head["classifier.dense.bias"])
        outputs.append(
            head["classifier.out_proj.weight"] @ dense + head["classifier.out_proj.bias"]
        )
    return torch.stack(outputs)  # [N, 3]


def test_dimensional_speech_model(dimensional, clips):
    folder, expected_outputs = dimensional
    outputs = expected_outputs(clips)
    assert float(outputs.std(0).min()) > 1e-3  # the clips do differ
    expected = (2 * outputs[:, [2, 0]] - 1).clamp(-1, 1)
    scorer = HubScorer.from_pretrained(folder, "audio")  # the order is in its config
    for batch_size in (1, 4):
        scores = scorer.score(clips, batch_size=batch_size)
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)


def test_order_and_range_are_options(dimensional, clips):
    folder, expected_outputs = dimensional
    outputs = expected_outputs(clips)
    scorer = HubScorer.from_pretrained(
        folder, "audio", order=("Valence", "other", "Arousal"), output_range=(-1.0, 2.0)
    )
    expected = (2 * (outputs[:, [0, 2]] + 1) / 3 - 1).clamp(-1, 1)
    torch.testing.assert_close(scorer.score(clips), expected, atol=1e-5, rtol=1e-4)


def test_outputs_beyond_the_range_are_counted(dimensional, clips, tmp_path, capsys):
    """A range that is not the model's must not pass unseen: all its scores are at the ends."""
    folder, _ = dimensional
    rows = "".join(f"{k},train,{clip.path}\n" for k, clip in enumerate(clips))
    manifest, output = tmp_path / "m.csv", tmp_path / "va.json"
    manifest.write_text("id,split,audio\n" + rows)
    for ends, said in ((("-9", "9"), 0), (("-9", "-8"), len(clips))):
        command = ["va", "score", "--modality", "audio", "--model", folder, "--manifest", manifest]
        command += ["--output", output, "--no-progress", "--output-range", *ends]
        assert main([str(part) for part in command]) == 0
        printed = capsys.readouterr().err
        line = f"{said} of {len(clips)} utterances have a score at -1 or 1, where scores are cut"
        assert (line in printed) == (said > 0)
        assert json.loads(output.read_text())["meta"]["at_ends"] == said


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_stock_audio_model(tmp_path, clips, norm):
    torch.manual_seed(2)
    stable = norm == "layer"
    config = Wav2Vec2Config(
        **SPEECH,
        feat_extract_norm=norm,
        do_stable_layer_norm=stable,
        num_labels=2,
        id2label={0: "arousal", 1: "valence"},
        classifier_proj_size=8,
    )
    model = Wav2Vec2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=stable)
    extractor.save_pretrained(tmp_path)
    expected = []
    for clip in clips:
        inputs = extractor(read_audio(clip, 16000), sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            expected.append(model(inputs["input_values"]).logits[0])
    scorer = HubScorer.from_pretrained(tmp_path, "audio", output_range=(-1.0, 1.0))
    scores = scorer.score(clips, batch_size=4)
    torch.testing.assert_close(scores, torch.stack(expected)[:, [1, 0]], atol=1e-5, rtol=1e-4)


def test_stock_text_model(tmp_path, tiny_encoder):
    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    config = BertConfig.from_pretrained(tiny_encoder)
    config.id2label = {0: "valence", 1: "arousal", 2: "dominance"}
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["a happy day", "a sad, slow, soft, still day", "!"]
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(t, return_tensors="pt")).logits for t in texts])
    scorer = HubScorer.from_pretrained(tmp_path, "text", output_range=(-1.0, 1.0))
    torch.testing.assert_close(scorer.score(texts), logits[:, :2], atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="no regression model of audio could be loaded"):
        HubScorer.from_pretrained(tmp_path, "audio")


def test_stock_image_model_takes_the_mean_over_frames(tmp_path):
    torch.manual_seed(3)
    config = ViTConfig(**PICTURES, id2label={0: "valence", 1: "arousal"})
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "model")
    from PIL import Image

    paths = [picture(tmp_path / "frames" / f"{k}.png", level=60 * k, seed=k) for k in range(3)]
    alone = picture(tmp_path / "alone.png", level=200)
    with torch.no_grad():
        logits = [
            model(**processor(Image.open(path), return_tensors="pt")).logits[0]
            for path in (*paths, alone)
        ]
    expected = torch.stack([torch.stack(logits[:3]).mean(0), logits[3]])
    scorer = HubScorer.from_pretrained(tmp_path / "model", "vision", output_range=(-1.0, 1.0))
    scores = scorer.score([Clip(path=tmp_path / "frames"), Clip(path=alone)], batch_size=2)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)


def test_odd_models_are_one_line(tmp_path, dimensional, tiny_encoder):
    folder, _ = dimensional
    bare = speech_encoder(tmp_path / "bare")  # an encoder without a head
    one = tmp_path / "one"
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(one)
    config = BertConfig.from_pretrained(tiny_encoder, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(one)
    empty = tmp_path / "empty"
    empty.mkdir()
    for source, modality, options, message in (
        (empty, "audio", {}, "no regression model of audio could be loaded"),
        (bare, "audio", {}, r"weights of the model are not in it \(such as"),
        (one, "text", {}, r"valence must be one of the model's 1 output\(s\), which are label_0"),
        (one, "text", {"order": ("valence", "arousal")}, r"has 1 output\(s\), and --order names 2"),
        (folder, "audio", {"order": ("valence", "dominance")}, r"has 3 output\(s\), and --order"),
        (folder, "audio", {"order": ("a", "b", "valence")}, "arousal must be one of the model's 3"),
        (folder, "audio", {"output_range": (1.0, 0.0)}, "output range: 1 0 is none"),
        (folder, "audio", {"output_range": (0.0, float("inf"))}, "output range: 0 inf is none"),
        (folder, "text", {}, "no regression model of text could be loaded"),
        (folder, "vision", {}, "no regression model of vision could be loaded"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            HubScorer.from_pretrained(source, modality, **options)
        assert "\n" not in str(caught.value)
    (folder / "preprocessor_config.json").rename(folder / "away")
    with pytest.raises(UserError, match=r"no usable audio processor .*preprocessor_config.json"):
        HubScorer.from_pretrained(folder, "audio")
    (folder / "preprocessor_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"no usable audio processor .*preprocessor_config.json"):
        HubScorer.from_pretrained(folder, "audio")
    (folder / "away").rename(folder / "preprocessor_config.json")
    with pytest.raises(UserError, match=r"none/config\.json: no such file"):
        VARegressor.from_pretrained(tmp_path / "none", "audio")
