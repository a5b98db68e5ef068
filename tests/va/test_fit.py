import json
from dataclasses import replace

import pytest
import torch
import tyro
from transformers import AutoModel, AutoTokenizer

from univa.cli import main
from univa.errors import UserError
from univa.va.cli import FitText
from univa.va.fit import FitSettings, agreement, fit
from univa.va.regressor import VARegressor
from univa.va.table import VASplit, read_va_table

QUICK = FitSettings(epochs=3, batch_size=8, encoder_learning_rate=3e-3, head_learning_rate=1e-2)


def _fit(encoder, splits, settings):
    torch.manual_seed(settings.seed)
    scorer = VARegressor.from_encoder(encoder, "text", max_tokens=16, pooling=settings.pooling)
    return scorer, fit(scorer, splits, settings, progress=False)


def test_learns_and_reports_what_the_scorer_gives(tiny_encoder, table):
    splits = read_va_table(table)
    scorer, figures = _fit(tiny_encoder, splits, QUICK)
    assert figures["test"]["valence"]["pearson"] > 0.9
    assert figures["test"]["arousal"]["pearson"] > 0.9
    assert figures["test"]["valence"]["ccc"] > 0.8
    assert figures["test"] == agreement(scorer, splits["test"])
    assert figures["dev"] == agreement(scorer, splits["dev"])
    assert figures["rows"] == {"train": 96, "dev": 24, "test": 24}

    criteria = [sum(v["pearson"] for v in epoch["dev"].values()) for epoch in figures["history"]]
    assert len(criteria) == 3
    assert figures["best_epoch"] == 1 + criteria.index(max(criteria))


def test_keeps_the_best_epoch_not_the_last(tiny_encoder, table):
    splits = read_va_table(table)
    # Training pulls away from these dev scores, so the first epoch stays the best.
    splits["dev"] = VASplit(items=splits["dev"].items, coordinates=-splits["dev"].coordinates)
    scorer, figures = _fit(tiny_encoder, splits, replace(QUICK, epochs=4))
    criteria = [sum(v["pearson"] for v in epoch["dev"].values()) for epoch in figures["history"]]
    best = criteria.index(max(criteria))
    assert best < 3
    assert figures["best_epoch"] == best + 1
    assert figures["dev"] == figures["history"][best]["dev"] == agreement(scorer, splits["dev"])


def test_same_seed_same_weights_other_seed_others(tiny_encoder, table):
    splits = read_va_table(table)
    quick = replace(QUICK, epochs=1)
    first, second = (_fit(tiny_encoder, splits, quick)[0].state_dict() for _ in range(2))
    other = _fit(tiny_encoder, splits, replace(quick, seed=2))[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_zero_learning_rate_freezes_the_encoder(tiny_encoder, table):
    splits = read_va_table(table)
    before = VARegressor.from_encoder(tiny_encoder, "text").encoder.state_dict()
    scorer, _ = _fit(tiny_encoder, splits, replace(QUICK, epochs=1, encoder_learning_rate=0.0))
    after = scorer.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert float(scorer.head.bias.detach().abs().max()) > 0


def test_constant_training_scores(tiny_encoder, table):
    splits = read_va_table(table)
    splits["train"].coordinates[:, 1] = 0.25
    with pytest.raises(UserError, match="the training split has one and the same arousal"):
        _fit(tiny_encoder, splits, QUICK)


@pytest.mark.parametrize(
    ("option", "value"),
    [("epochs", 0), ("batch_size", 1), ("dropout", 1.0), ("concordance_weight", 1.5), ("clip", 0)],
)
def test_settings_out_of_range(option, value):
    with pytest.raises(UserError, match=f"{option}: {value} is out of range"):
        FitSettings(**{option: value})


def _command(table, encoder, output, *more):
    options = ["--epochs", "1", "--batch-size", "8", "--max-tokens", "16", "--no-progress"]
    paths = ["--data", str(table), "--encoder", str(encoder), "--output", str(output)]
    return tyro.cli(FitText, args=[*paths, "--device", "cpu", *options, *more])


def test_command_writes_a_folder_that_loads(tiny_encoder, table, tmp_path, capsys):
    output = tmp_path / "made" / "scorer"
    _command(table, tiny_encoder, output, "--value-range", "0", "10").run()
    figures = json.loads((output / "metrics.json").read_text())
    printed = capsys.readouterr().out
    for name in ("valence", "arousal"):
        assert f"test {name}: Pearson r {figures['test'][name]['pearson']:.4f}" in printed
    scorer = VARegressor.from_pretrained(output)
    splits = read_va_table(table, replace(_command(table, "", "").table, value_range=(0.0, 10.0)))
    again = agreement(scorer, splits["test"])
    assert again["valence"]["pearson"] == pytest.approx(figures["test"]["valence"]["pearson"])
    assert figures["settings"]["epochs"] == 1
    card = (output / "README.md").read_text()
    assert f"| arousal | {figures['test']['arousal']['pearson']:.3f} |" in card
    assert str(tmp_path) not in card
    assert [path.name for path in output.parent.iterdir()] == ["scorer"]


def test_command_does_not_overwrite(tiny_encoder, table, tmp_path):
    (tmp_path / "scorer").mkdir()
    with pytest.raises(UserError, match="scorer: exists already; give another --output"):
        _command(table, tiny_encoder, tmp_path / "scorer").run()


def test_failing_fit_leaves_nothing(tiny_encoder, table, tmp_path, monkeypatch):
    """Also where it fails after the weights are written, or is interrupted."""
    output = tmp_path / "out" / "scorer"
    broken = AutoModel.from_pretrained(tiny_encoder)
    broken.embeddings.LayerNorm.weight.data[0] = torch.inf
    broken.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path / "broken")
    with pytest.raises(UserError, match=r"the loss of epoch 1 is nan; check the encoder"):
        _command(table, tmp_path / "broken", output).run()
    assert not any(output.parent.iterdir())

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("univa.va.cli.model_card", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _command(table, tiny_encoder, output).run()
    assert not any(output.parent.iterdir())


def test_missing_encoder_is_told_before_anything_is_written(table, tmp_path):
    with pytest.raises(UserError, match="no text encoder could be loaded"):
        _command(table, tmp_path / "none", tmp_path / "out" / "scorer").run()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "epochs: 0 is out of range; see --help"),
        (["--value-range", "2", "1"], "value_range: 2 1 is no range"),
        (["--valence-column", "valence"], "row 1: no column 'valence'"),
        (["--max-tokens", "400"], "max_tokens: 400 is not between 3 and the 64 positions"),
    ],
)
def test_command_line_tells_mistakes_in_one_line(
    tiny_encoder, table, tmp_path, capsys, options, message
):
    output = tmp_path / "out" / "scorer"
    paths = ["--data", str(table), "--encoder", str(tiny_encoder), "--output", str(output)]
    assert main(["va", "fit-text", *paths, *options]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("univa:")]
    assert len(errors) == 1
    assert errors[0].startswith("univa: error: ")
    assert message in errors[0]
    assert not output.parent.exists()
