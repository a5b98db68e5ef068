"""Configs refuse wrong values by name, and go to JSON and back."""

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from univa.cli.train import parse_train
from univa.config import (
    DataConfig,
    LossConfig,
    OptimizerConfig,
    SyntheticConfig,
    ThresholdConfig,
    TrainConfig,
)
from univa.errors import UserError
from univa.presets import PRESETS, demo, mosei_text

WRONG = [
    (SyntheticConfig, "train_dialogues", 0, "--data.synthetic.train-dialogues: 0 "),
    (SyntheticConfig, "discordance", 1.5, "--data.synthetic.discordance: 1.5 "),
    (SyntheticConfig, "noise", -0.1, "--data.synthetic.noise: -0.1 "),
    (DataConfig, "batch_size", 0, "--data.batch-size: 0 .* at least 1"),
    (DataConfig, "max_tokens", 2, "--data.max-tokens: 2 "),
    (LossConfig, "temperature", 0.0, "--loss.temperature: 0.0 .* above 0"),
    (LossConfig, "temperature", float("nan"), "--loss.temperature: nan "),
    (LossConfig, "alpha", 1.1, r"--loss.alpha: 1.1 .* in \[0, 1\]"),
    (LossConfig, "self_weight", -1.0, "--loss.self-weight: -1.0 "),
    (LossConfig, "radius", -0.1, "--loss.radius: -0.1 "),
    (LossConfig, "text_weight", -3.0, "--loss.text-weight: -3.0 "),
    (OptimizerConfig, "learning_rate", 0.0, "--optimizer.learning-rate: 0.0 "),
    (OptimizerConfig, "text_encoder_learning_rate", 0.0, "--model.freeze-text-encoder"),
    (OptimizerConfig, "weight_decay", -1.0, "--optimizer.weight-decay: -1.0 "),
    (OptimizerConfig, "beta2", 1.0, "--optimizer.beta2: 1.0 "),
    (OptimizerConfig, "eps", 0.0, "--optimizer.eps: 0.0 "),
    (OptimizerConfig, "warmup_fraction", 1.5, "--optimizer.warmup-fraction: 1.5 "),
    (OptimizerConfig, "clip_norm", -1.0, "--optimizer.clip-norm: -1.0 "),
    (ThresholdConfig, "value", 1.0, "--threshold.value: 1.0 "),
]


@pytest.mark.parametrize(("kind", "name", "value", "message"), WRONG)
def test_wrong_value_is_named(kind, name, value, message):
    with pytest.raises(UserError, match=message):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 0), ("save_every", -1), ("seed", -1), ("threads", -1)]
)
def test_wrong_value_of_the_run(name, value):
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}: {value} is not allowed"):
        replace(demo(), **{name: value})


def test_prior_of_model_and_loss_go_together():
    config = demo()
    with pytest.raises(UserError, match=r"--loss.prior None and --model.no-prior"):
        replace(config, loss=LossConfig(prior=None))
    replace(config, loss=LossConfig(prior=None), model=replace(config.model, prior=False))


def test_text_only_data_needs_an_encoder():
    with pytest.raises(UserError, match="--text-encoder FOLDER"):
        replace(demo(), data=DataConfig(source="authors-text"))


@pytest.mark.parametrize("make", PRESETS.values(), ids=PRESETS)
def test_json_and_back(make, tmp_path: Path):
    config = make()
    path = tmp_path / "config.json"
    config.save(path)
    assert TrainConfig.load(path) == config
    content = json.loads(path.read_text())
    del content["threads"]  # a field that is newer than the file
    path.write_text(json.dumps(content))
    assert TrainConfig.load(path).differences(config) == []


def test_differences_are_in_what_decides_the_numbers():
    config = demo()
    same = replace(config, resume="x", run_folder="y", device="cpu", progress=False, save_every=1)
    assert config.differences(same) == []
    other = replace(config, loss=replace(config.loss, alpha=0.3), seed=5)
    assert config.differences(other) == [
        "loss.alpha is 0.2, not 0.3",
        "seed is 1111, not 5",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sed": 1}, "unknown field sed; remove it"),
        ({"loss": {"tau": 1}}, "unknown field loss.tau; remove it"),
        ({"loss": 3}, "field loss must be an object"),
        ({"epochs": 0}, "--epochs: 0 is not allowed"),
        ({"epochs": "three"}, "--epochs: 'three' is not allowed; it must be a whole number"),
        ({"model": {"labels": ["a"], "hidden_size": -1}}, "model: "),
    ],
)
def test_edited_file(change, message, tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(demo().to_dict() | change))
    with pytest.raises(UserError, match=message):
        TrainConfig.load(path)


def test_file_that_is_not_json(tmp_path: Path):
    path = tmp_path / "config.json"
    with pytest.raises(UserError, match="is not the folder of a training run"):
        TrainConfig.load(path)
    path.write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        TrainConfig.load(path)


def test_resolved_paths_are_absolute(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    config = mosei_text()
    config = replace(
        config,
        data=replace(config.data, folder="data"),
        model=replace(config.model, text_encoder="some/name-on-the-hub"),
    ).resolved()
    assert config.data.folder == str(tmp_path / "data")
    assert config.model.text_encoder == "some/name-on-the-hub"


def test_command_line_reaches_every_level(tmp_path: Path):
    config = parse_train(
        [
            *("mosei-text", "--data", "D", "--va-file=V", "--text-encoder", "E", "--epochs", "2"),
            *("--model.hidden-size", "24", "--loss.prior", "quadratic", "--no-progress"),
            *("--optimizer.text-encoder-learning-rate", "1e-5", "--threshold.search", "shared"),
        ]
    )
    assert (config.data.folder, config.data.va_file) == ("D", "V")
    assert (config.model.text_encoder, config.model.hidden_size) == ("E", 24)
    assert (config.loss.prior, config.epochs, config.progress) == ("quadratic", 2, False)
    assert config.optimizer.text_encoder_learning_rate == 1e-5
    assert config.preset == "mosei-text"


def test_every_field_is_an_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_train(["demo", "--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())

    def options(kind, prefix=""):
        for field in fields(kind):
            if is_dataclass(value := getattr(prefix_value(prefix), field.name)):
                yield from options(type(value), f"{prefix}{field.name}.")
            elif field.name != "preset":
                yield f"--{prefix}{field.name}".replace("_", "-")

    def prefix_value(prefix):
        value = demo()
        for name in prefix.split(".")[:-1]:
            value = getattr(value, name)
        return value

    for option in options(TrainConfig):
        assert option in shown or option.replace("--", "--no-", 1) in shown, option
