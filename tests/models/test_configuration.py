import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.tiny import config
from univa.batch import MODALITIES
from univa.errors import UserError
from univa.models import ModelConfig

configurations = st.builds(
    lambda heads, width, **rest: ModelConfig(num_heads=heads, hidden_size=heads * width, **rest),
    heads=st.integers(1, 8),
    width=st.integers(1, 64),
    labels=st.lists(st.text(min_size=1), min_size=1, max_size=7, unique=True).map(tuple),
    modalities=st.lists(st.sampled_from(MODALITIES), min_size=1, unique=True).map(tuple),
    dropout=st.floats(0, 1, exclude_max=True),
    initializer_range=st.none() | st.floats(1e-3, 1),
    text_encoder=st.none() | st.text(min_size=1),
    audio_layers=st.integers(0, 3),
    prior=st.booleans(),
)


@settings(max_examples=40)
@given(configurations)
def test_json_round_trip(original):
    data = json.loads(original.to_json())
    assert ModelConfig.from_dict(data) == original
    assert list(original.modalities) == [m for m in MODALITIES if m in original.modalities]


def test_file_round_trip(tmp_path):
    path = tmp_path / "config.json"
    original = config(labels=("heiter", "traurig", "wütend"))
    path.write_text(original.to_json(), encoding="utf-8")
    assert ModelConfig.from_json(path) == original


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ()}, "labels must be a non-empty sequence"),
        ({"labels": "happy"}, "labels must be a non-empty sequence"),
        ({"labels": ("sad", "sad")}, "labels must differ"),
        ({"modalities": ()}, "modalities must be a non-empty subset of text, audio, vision"),
        ({"modalities": "text"}, "modalities must be"),
        ({"modalities": ("text", "smell")}, "modalities must be"),
        ({"modalities": ("text", "text")}, "modalities must be"),
        ({"num_heads": 5}, "hidden_size must be a multiple of num_heads, got 16 and 5"),
        ({"num_heads": 0}, "num_heads must be a whole number of at least 1, got 0"),
        ({"hidden_size": 16.0}, "hidden_size must be a whole number"),
        ({"audio_layers": -1}, "audio_layers must be a whole number of at least 0, got -1"),
        ({"vision_dim": 0}, "vision_dim must be a whole number of at least 1"),
        ({"max_text_length": True}, "max_text_length must be a whole number"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": float("nan")}, r"dropout must be in \[0, 1\)"),
        ({"dropout": "0.1"}, r"dropout must be in \[0, 1\)"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps must be in"),
        ({"initializer_range": 0.0}, "initializer_range must be above 0 or None"),
        ({"initializer_range": float("inf")}, "initializer_range must be above 0 or None"),
        ({"text_encoder": ""}, "text_encoder must be a folder, a hub name or None"),
        ({"prior": 1}, "prior must be true or false, got 1"),
        ({"freeze_text_encoder": "no"}, "freeze_text_encoder must be true or false"),
    ],
)
def test_bad_field_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


def written(path, change):
    data = config().to_dict()
    change(data)
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(hiden_size=3), "unknown key 'hiden_size'"),
        (lambda data: data.pop("audio_dim"), "key 'audio_dim' is missing"),
        (lambda data: data.update(dropout=2), r"dropout must be in \[0, 1\), got 2"),
        (lambda data: data.update(labels="happy"), "labels must be a list"),
        (lambda data: data.update(modalities=None), "modalities must be a list"),
        (lambda data: data.update(modalities=[[1]]), "modalities must be"),
    ],
)
def test_bad_file_is_one_line_with_its_name(tmp_path, change, message):
    path = written(tmp_path / "config.json", change)
    with pytest.raises(UserError, match=message) as caught:
        ModelConfig.from_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(UserError, match="cannot read the model configuration"):
        ModelConfig.from_json(path)
    path.write_text("{")
    with pytest.raises(UserError, match="not a JSON file"):
        ModelConfig.from_json(path)
    path.write_text("[1]")
    with pytest.raises(UserError, match="JSON object"):
        ModelConfig.from_json(path)
