"""`--authors`: one switch turns everything on, and is refused beside what contradicts it."""

import json
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest
import torch

import univa.train
from tests.train.test_authors_presets import small
from tests.train.test_cli import refused
from tests.train.tiny import read_log, tiny
from univa.cli import main
from univa.cli.train import parse_train
from univa.config import TrainConfig
from univa.config.authors import SETTINGS, as_authors
from univa.data import UtteranceBatchSampler
from univa.data.build import load_corpus, make_collator, make_sampler
from univa.errors import UserError
from univa.models import UniVA
from univa.presets import PRESETS
from univa.train import train


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_switched(name):
    config = parse_train([name, "--authors"])
    assert config == as_authors(PRESETS[name]())
    for field, values in SETTINGS.items():
        assert attrgetter(field)(config) in values, field
    assert config.data.max_tokens == (
        512 if config.uses_tokens else PRESETS[name]().data.max_tokens
    )
    # What the run is about stays.
    preset = PRESETS[name]()
    assert config.loss.temperature == preset.loss.temperature
    assert config.optimizer == preset.optimizer
    assert config.model.hidden_size == preset.model.hidden_size
    assert not preset.authors


OTHER = {
    "precision": ["bfloat16"],
    "data.authors": None,
    "data.sampler": ["dialogues"],
    "data.padding": ["batch"],
    "data.max_tokens": ["256"],
    "data.batch_tokens": ["900"],
    "data.context": None,
    "loss.classification": ["bce"],
    "loss.prior": ["quadratic"],
    "loss.self_weight": ["0.2"],
    "loss.normalize": [],
    "loss.gather": [],
    "model.initializer_range": ["0.02"],
    "model.freeze_text_encoder": [],
    "threshold.search": ["shared"],
    "threshold.value": ["0.3"],
}


def test_other_values_are_for_every_setting():
    assert OTHER.keys() == SETTINGS.keys() | {"data.max_tokens"}


@pytest.mark.parametrize("name", OTHER)
def test_a_contradiction_is_one_line(name, capsys, tmp_path: Path):
    option = f"--{name.replace('_', '-')}"
    section, _, field = option.removeprefix("--").rpartition(".")
    values = OTHER[name]
    given = [f"--{section}.no-{field}"] if values is None else [option, *values]
    run = tmp_path / "run"
    for order in (["--authors", *given], [*given, "--authors"]):
        said = refused(capsys, "train", "mosei-roberta", *order, "--run-folder", str(run))
        assert said.startswith(f"{option}: "), said
        assert "does not go with --authors" in said
    assert not run.exists()


def test_python_and_files_are_refused_alike(tmp_path: Path):
    with pytest.raises(UserError, match=r"--data.sampler: 'dialogues' does not go with --authors"):
        replace(PRESETS["mosei-glove"](), authors=True)
    path = tmp_path / "config.json"
    config = as_authors(PRESETS["mosei-glove"]())
    config.save(path)
    assert TrainConfig.load(path) == config
    content = json.loads(path.read_text())
    content["data"]["padding"] = "batch"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"--data.padding: 'batch' does not go with --authors"):
        TrainConfig.load(path)


def test_the_run_is_the_authors(golden, tmp_path, monkeypatch, capsys):
    """Whole runs: what reaches the loss, and how the model starts."""
    folder = golden / "official_layout" / "MOSEI"
    lengths = ["--model.max-audio-length", "9", "--model.max-vision-length", "7"]
    widths: set[tuple[int, ...]] = set()
    starts: list[bool] = []
    make, call = univa.train.setup.make_optimizer, univa.train.setup.Objective.forward

    def watched_make(config, model, steps):
        layers = model.encoders["audio"].layers
        equal = [
            all(
                torch.equal(a, b)
                for a, b in zip(layer.parameters(), layers[0].parameters(), strict=True)
            )
            for layer in layers
        ]
        starts.append(all(equal))
        return make(config, model, steps)

    def watched_call(self, batch):
        inputs = batch.inputs
        widths.add(
            (
                inputs["text"].input_ids.shape[1],
                inputs["audio"].features.shape[1] if config_authors else 0,
            )
        )
        return call(self, batch)

    monkeypatch.setattr(univa.train.setup, "make_optimizer", watched_make)
    monkeypatch.setattr(univa.train.setup.Objective, "forward", watched_call)
    for config_authors in (True, False):
        run = tmp_path / f"run-{config_authors}"
        widths.clear()
        options = [*small(golden, tmp_path, "mosei-roberta"), *lengths, "--data.batch-size", "10"]
        options += ["--data", str(folder), "--run-folder", str(run)]
        assert main(["train", "mosei-roberta", *["--authors"] * config_authors, *options]) == 0
        steps = [record for record in read_log(run) if record["event"] == "step"]
        counts = [record["utterances"] for record in steps]
        if config_authors:
            assert widths == {(512, 9)}
            assert counts == [10, 10, 10, 10, 7]
            assert TrainConfig.load(run / "config.json").authors
        else:
            assert widths != {(512, 0)}
            assert counts != [10, 10, 10, 10, 7]
    assert starts == [True, False]
    # It goes on without being told again.
    assert main(["train", "--resume", str(tmp_path / "run-True"), "--no-progress"]) == 0


def test_sampler_of_the_switch():
    config = as_authors(tiny())
    corpus = load_corpus(config)
    model = UniVA(config.model, similarity=torch.zeros(6, 6))
    sampler = make_sampler(config, make_collator(config, corpus.train, model))
    assert isinstance(sampler, UtteranceBatchSampler)


def test_a_config_from_before_the_switch_goes_on(tmp_path: Path):
    """A run folder whose config.json and checkpoints have no field `authors`."""
    run = tmp_path / "run"
    train(tiny(run_folder=str(run), epochs=1))
    for path in (run / "config.json", *run.glob("checkpoints/*/meta.json")):
        content = json.loads(path.read_text())
        del content.get("config", content)["authors"]
        path.write_text(json.dumps(content))
    train(tiny(resume=str(run), epochs=1))
