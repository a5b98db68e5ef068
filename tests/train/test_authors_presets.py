"""The authors' presets: their values, and runs on their file layout."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.data.layout import write_layout
from univa.cli import main
from univa.presets import PRESETS

# tau, alpha, learning rate, batch per process, epochs, layers T/A/V, prior, weight of text
VALUES = {
    "mosei-roberta": (0.7, 0.45, 5e-5, 12, 5, (None, 5, 3), True, 3),
    "mosei-glove": (0.4, 0.2, 7e-5, 32, 15, (7, 3, 5), False, 3),
    "m3ed-roberta": (0.4, 0.2, 5e-5, 22, 10, (None, 5, 3), True, 1),
    "m3ed-glove": (0.4, 0.1, 5e-5, 32, 15, (3, 5, 3), True, 1),
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name):
    config = PRESETS[name]()
    temperature, alpha, rate, batch, epochs, layers, prior, text_weight = VALUES[name]
    assert (config.loss.temperature, config.loss.alpha) == (temperature, alpha)
    assert (config.optimizer.learning_rate, config.data.batch_size) == (rate, batch)
    assert (config.epochs, config.seed, config.model.prior) == (epochs, 1111, prior)
    assert (config.loss.prior == "norm") == prior
    assert (config.model.text_encoder is None) == (layers[0] is not None)
    for modality, count in zip(("text", "audio", "vision"), layers, strict=True):
        assert count is None or config.model.num_layers(modality) == count
    weights = config.loss.modality_weights
    assert weights == {"text": text_weight, "audio": 1, "vision": 1}
    model = config.model
    assert (model.hidden_size, model.num_heads, model.feedforward_size) == (768, 12, 3072)
    assert (model.dropout, model.layer_norm_eps, model.initializer_range) == (0.1, 1e-12, None)
    assert (model.text_dim, model.audio_dim, model.vision_dim) == (300, 768, 512)
    assert (config.loss.radius, config.loss.normalize) == (0.1, False)
    assert (config.threshold.search, config.threshold.value) == ("fixed", 0.18)
    optimizer = config.optimizer
    assert (optimizer.warmup_fraction, optimizer.weight_decay, optimizer.clip_norm) == (0.1, 0, 1)
    assert (config.data.authors, config.data.max_tokens) == (True, 512)
    assert len(config.model.labels) == (6 if name.startswith("mosei") else 7)


def small(golden: Path, tmp_path: Path, name: str) -> list[str]:
    """Options for a small model on the small layout."""
    options = [
        *("--model.hidden-size", "16", "--model.num-heads", "2", "--model.feedforward-size", "32"),
        *("--model.audio-dim", "12", "--model.vision-dim", "10", "--epochs", "1"),
        *("--device", "cpu", "--threads", "1", "--no-progress"),
    ]
    data_set, kind = name.split("-")
    if kind == "roberta":
        from transformers import AutoModel

        from univa.utils.tokenizer import load_tokenizer

        case = {"mosei": "mosei_roberta", "m3ed": "m3ed_bert"}[data_set]
        encoder = tmp_path / "encoder"
        if not encoder.exists():
            config = json.loads((golden / case / "text_encoder" / "config.json").read_text())
            from transformers import AutoConfig

            values = {"vocab_size": 600, "max_position_embeddings": 514}
            made = AutoConfig.for_model(**{**config, **values})
            AutoModel.from_config(made).save_pretrained(encoder)
            folder = golden / "official_layout" / data_set.upper()
            load_tokenizer(folder / "tokenizer").save_pretrained(encoder)
        options += ["--text-encoder", str(encoder)]
    return options


@pytest.mark.parametrize("name", VALUES)
def test_a_run_on_the_layout_and_on_its_store_are_one(golden, tmp_path, name, capsys):
    folder = golden / "official_layout" / name.split("-")[0].upper()
    store, options = tmp_path / "store", small(golden, tmp_path, name)
    assert main(["data", "convert", str(folder), str(store), "--no-progress"]) == 0
    extra = ["--data.workers", "1"] if name == "mosei-glove" else []
    for data, run, more in ((folder, "run", []), (store, "other", extra)):
        code = main(
            [
                "train",
                name,
                "--data",
                str(data),
                "--run-folder",
                str(tmp_path / run),
                *options,
                *more,
            ]
        )
        assert code == 0, capsys.readouterr().err
    ours, theirs = (
        load_file(tmp_path / run / "checkpoints" / "last" / "model.safetensors")
        for run in ("run", "other")
    )
    assert all((ours[key] == theirs[key]).all() for key in ours)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if record["event"] == "step"]
    assert {"contrastive_text", "contrastive_audio", "contrastive_vision"} <= steps[0].keys()
    assert sum(record["utterances"] for record in steps) == (47 if "mosei" in name else 51)


def test_what_does_not_fit_is_named(golden, tmp_path, capsys):
    folder = golden / "official_layout" / "MOSEI"
    options = small(golden, tmp_path, "mosei-glove")
    store = tmp_path / "store"
    main(["data", "convert", str(folder), str(store), "--no-progress"])
    common = ["--run-folder", str(tmp_path / "run"), *options]
    for args, said in (
        (["mosei-glove"], "no data: give --data FOLDER"),
        (
            ["mosei-glove", "--data", str(folder), "--model.audio-dim", "768"],
            "give --model.audio-dim 12",
        ),
        (["m3ed-glove", "--data", str(folder)], "give the labels of the data"),
        (["mosei-glove", "--data", str(store), "--va-file", "x"], "has scores of its own"),
        (["mosei-glove", "--data", str(tmp_path)], str(tmp_path)),
    ):
        head, rest = args[:1], args[1:]
        both = [*head, *common, *rest]
        capsys.readouterr()
        assert main(["train", *both]) == 2, args
        error = capsys.readouterr().err
        assert said in error, error
        assert error.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_a_store_without_scores_of_the_text_is_refused_as_the_layout_is(tmp_path, capsys):
    folder, store = write_layout(tmp_path / "data", audio_size=768), tmp_path / "store"
    (folder / "preprocess_data" / "raw_utt_text_textVA.json").unlink()
    assert main(["data", "convert", str(folder), str(store), "--no-progress"]) == 0
    assert "without valence-arousal scores of the text" in capsys.readouterr().err
    options = ["--text-encoder", str(tmp_path), "--model.vision-dim", "10"]
    for data in (folder, store):
        assert main(["train", "mosei-roberta", "--data", str(data), *options]) == 2
        error = capsys.readouterr().err
        assert "raw_utt_text_textVA.json" in error
        assert error.count("\n") == 1
