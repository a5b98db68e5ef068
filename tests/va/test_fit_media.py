"""Fitting on sound and pictures, and what the trainer does for every modality."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.va.media_files import clip, picture, speech_encoder, tone, vit
from univa.cli import main
from univa.errors import UserError
from univa.va.agreement import bootstrap_intervals, pearson
from univa.va.fit import FitSettings, agreement, fit
from univa.va.fit_optim import layer_places, make_optimizer
from univa.va.regressor import VARegressor
from univa.va.table import TableFormat, read_va_table

ROWS = {"train": 24, "valid": 8, "test": 8}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """JSON lines of tones: hiss decides valence, and length arousal."""
    return _table(tmp_path_factory.mktemp("sounds"), "audio", ".jsonl")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A CSV of pictures whose level decides valence and whose width decides arousal."""
    return _table(tmp_path_factory.mktemp("pictures"), "vision", ".csv")


def _table(folder, modality, suffix):
    rng = np.random.default_rng(7)
    rows = []
    for split, count in ROWS.items():
        for k in range(count):
            valence, arousal = rng.uniform(-1, 1, 2).round(3).tolist()
            name = f"files/{split}{k}"
            if modality == "audio":
                name += ".wav"
                tone(folder / name, seconds=0.3 + 0.2 * arousal, noise=0.2 * (valence + 1))
            else:
                name += ".png"
                level = round(128 + 100 * valence)
                picture(folder / name, level=level, seed=k, size=(60 + round(30 * arousal), 40))
            rows.append({"split": split, modality: name, "valence": valence, "arousal": arousal})
    path = folder / f"table{suffix}"
    if suffix == ".jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = "\n".join([",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)])
    path.write_text(text)
    return path


def _fit(capsys, modality, table, encoder, output, *more):
    command = f"va fit-{modality} --data {table} --encoder {encoder} --output {output}"
    quick = "--device cpu --no-progress --batch-size 8 --head-learning-rate 1e-2"
    capsys.readouterr()
    assert main([*command.split(), *quick.split(), *more]) == 0
    return capsys.readouterr().out, json.loads((output / "metrics.json").read_text())


def _own(table, modality):
    columns = TableFormat(
        valence_column="valence",
        arousal_column="arousal",
        dev_split="valid",
        value_range=(-1.0, 1.0),
    )
    return read_va_table(table, columns, modality)


@pytest.mark.parametrize("rate", ["0", "3e-3"])
def test_pictures(tmp_path, capsys, pictures, rate):
    """The level is there in the encoder's states, frozen or not."""
    out, figures = _fit(
        capsys,
        "vision",
        pictures,
        vit(tmp_path / "encoder"),
        tmp_path / "scorer",
        *f"--epochs 15 --encoder-learning-rate {rate}".split(),
    )
    assert figures["test"]["valence"]["pearson"] > 0.8
    scorer = VARegressor.from_pretrained(tmp_path / "scorer", "vision")
    splits = _own(pictures, "vision")
    assert agreement(scorer, splits["test"]) == figures["test"]
    assert agreement(scorer, splits["dev"])["valence"]["ccc"] == pytest.approx(
        figures["dev"]["valence"]["ccc"], abs=1e-5
    )
    low, high = figures["intervals"]["valence"]["pearson"]
    assert low < figures["test"]["valence"]["pearson"] < high
    assert f"test valence: Pearson r {figures['test']['valence']['pearson']:.4f} ({low:.3f}" in out
    card = (tmp_path / "scorer" / "README.md").read_text()
    assert (
        f"| valence | {figures['test']['valence']['pearson']:.3f} | {low:.3f} to {high:.3f}" in card
    )
    assert ("frozen" in card) == (rate == "0")
    assert str(tmp_path) not in card


def test_sounds(tmp_path, capsys, sounds):
    encoder = speech_encoder(tmp_path / "encoder")
    _, figures = _fit(
        capsys,
        "audio",
        sounds,
        encoder,
        tmp_path / "scorer",
        *["--epochs", "12", "--encoder-learning-rate", "2e-3", "--pooling", "mean+max"],
    )
    losses = [epoch["train_loss"] for epoch in figures["history"]]
    assert losses[-1] < 0.85 * losses[0], losses
    assert figures["settings"]["max_seconds"] == 15
    assert figures["settings"]["pooling"] == "mean+max"
    scorer = VARegressor.from_pretrained(tmp_path / "scorer", "audio")
    assert agreement(scorer, _own(sounds, "audio")["test"]) == figures["test"]
    # The convolutions stay, the layers move.
    before = VARegressor.from_encoder(encoder, "audio").encoder.state_dict()
    after = scorer.encoder.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("feature_extractor") for name in moved)
    assert any(name.startswith("encoder.layers.0.") for name in moved)


def test_average_of_weights_and_patience(tmp_path, pictures):
    splits = _own(pictures, "vision")
    settings = FitSettings(
        epochs=30,
        patience=2,
        batch_size=8,
        encoder_learning_rate=0.0,
        head_learning_rate=0.05,
        average=0.9,
        dropout=0.0,
    )
    torch.manual_seed(0)
    scorer = VARegressor.from_encoder(clip(tmp_path / "encoder"), "vision", dropout=0.0)
    rival = VARegressor.from_encoder(tmp_path / "encoder", "vision", dropout=0.0)
    rival.load_state_dict(scorer.state_dict())
    figures = fit(scorer, splits, settings, progress=False)
    criteria = [sum(v["pearson"] for v in epoch["dev"].values()) for epoch in figures["history"]]
    assert len(criteria) < 30
    assert len(criteria) == figures["best_epoch"] + 2
    assert figures["best_epoch"] == 1 + criteria.index(max(criteria))
    fit(rival, splits, replace(settings, average=0.0), progress=False)
    assert not torch.equal(scorer.head.weight, rival.head.weight)


def test_average_is_the_stated_one():
    from univa.va.fit import _average

    generator = torch.Generator().manual_seed(0)
    values = torch.randn(30, 5, dtype=torch.float64, generator=generator)
    mean = values[0]
    expected = values[0]
    for n in range(1, 30):
        mean = _average(0.7)(mean, values[n], torch.tensor(n))
        decay = min(0.7, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * values[n]
    torch.testing.assert_close(mean, expected)


def test_rates_fall_from_layer_to_layer(tiny_encoder):
    scorer = VARegressor.from_encoder(tiny_encoder, "text", max_tokens=16)
    settings = FitSettings(encoder_learning_rate=1e-4, layer_decay=0.5, head_learning_rate=1e-2)
    rates = {}
    for group in make_optimizer(scorer, settings).param_groups:
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    found = {name: rates[id(p)] for name, p in scorer.named_parameters()}
    assert found["head.weight"] == found["head.bias"] == 1e-2
    assert found["encoder.encoder.layer.1.output.dense.weight"] == 1e-4
    assert found["encoder.encoder.layer.0.output.dense.weight"] == 0.5e-4
    assert found["encoder.embeddings.word_embeddings.weight"] == 0.25e-4
    assert found["encoder.embeddings.LayerNorm.bias"] == 0.25e-4


def test_layers_of_the_other_encoders(tmp_path):
    for make, below, above in (
        (speech_encoder, "feature_projection.projection.weight", "encoder.layers.1."),
        (vit, "embeddings.", ".1."),
        (clip, "embeddings.patch_embedding.weight", "encoder.layers.1."),
    ):
        modality = "audio" if make is speech_encoder else "vision"
        folder = make(tmp_path / make.__name__)
        places = layer_places(VARegressor.from_encoder(folder, modality).encoder)
        assert set(places.values()) == {0, 1, 2}
        assert {n for name, n in places.items() if below in name} == {2}
        assert {n for name, n in places.items() if above in name and "layer" in name} == {0}


def test_intervals_cover_what_they_should():
    """Over many data sets of known correlation, about 95 % of the intervals hold it."""
    generator = torch.Generator().manual_seed(3)
    hits = 0
    for trial in range(60):
        targets = torch.randn(150, 1, dtype=torch.float64, generator=generator)
        noise = torch.randn(150, 1, dtype=torch.float64, generator=generator)
        predictions = 0.6 * targets + 0.8 * noise  # r = 0.6
        ends = bootstrap_intervals(predictions, targets, resamples=100, seed=trial)["pearson"]
        low, high = ends[0].tolist()
        assert low < float(pearson(predictions, targets)) < high
        hits += low < 0.6 < high
    assert 50 <= hits < 60


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: rows.__setitem__(3, rows[3] | {"valence": float("nan")}), "row 4: column 'v"),
        (lambda rows: rows[5].pop("audio"), "row 6: no column 'audio'"),
        (lambda rows: rows[2].update(audio="files/none.wav"), "none.wav: no such file; mend the"),
        (lambda rows: rows[2].update(audio=""), "row 3: column 'audio' is empty; give the row a f"),
        (lambda rows: rows[2].update(start=2, end=1), "row 3: from 2 s to 1.0 s is no stretch"),
        (lambda rows: rows[2].update(start="now"), "row 3: column 'start' is 'now', not a number"),
        (lambda rows: rows[2].update(valence=[1]), "row 3: column 'valence' is no text or number"),
    ],
)
def test_odd_tables_are_one_line(tmp_path, capsys, sounds, damage, message):
    rows = [json.loads(line) for line in sounds.read_text().splitlines()]
    damage(rows)
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "files").symlink_to(sounds.parent / "files")
    encoder = speech_encoder(tmp_path / "encoder")
    command = (
        f"va fit-audio --data {table} --encoder {encoder} --output {tmp_path / 'o' / 'scorer'}"
    )
    assert main([*command.split(), "--device", "cpu", "--no-progress"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("univa:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "o" / "scorer").exists()


def test_bad_options():
    from univa.va.cli import FitAudio, FitVision

    with pytest.raises(UserError, match="max_seconds: 0 is not above 0"):
        FitAudio(data="", encoder="", output="", max_seconds=0.0)
    with pytest.raises(UserError, match="frames: 0 is less than 1"):
        FitVision(data="", encoder="", output="", frames=0)
    for name, value in {"patience": -1, "layer_decay": 0.0, "average": 1.0, "resamples": 5}.items():
        with pytest.raises(UserError, match=f"{name}: {value} is out of range"):
            FitSettings(**{name: value})
