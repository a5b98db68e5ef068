"""The model card: valid for the Hub, with the run's own figures and no others."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.models.tiny import tiny_encoder
from tests.train.tiny import tiny
from univa.models import ModelConfig, UniVA
from univa.models.card import CardFacts, model_card
from univa.presets import m3ed_roberta, mosei_roberta
from univa.runs.card import _CORPORA, LICENCES, run_facts
from univa.runs.checkpoint import Progress, save_checkpoint

SECTIONS = [
    "How to load",
    "Data",
    "Training",
    "Results",
    "Intended use",
    "Limits",
    "Licences",
]


def sections(card: ModelCard) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", card.text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_card_of_a_finished_run(finished: Path):
    card = ModelCard.load(finished / "checkpoints" / "best" / "README.md")
    metrics = json.loads((finished / "metrics.json").read_text())
    values = [
        (one.dataset_split, one.metric_name.split()[0].lower(), one.metric_value)
        for one in card.data.eval_results
    ]
    names = {"accuracy": "accuracy", "hamming": "hamming_loss"}
    names |= {"micro-f1": "micro_f1", "macro-f1": "macro_f1"}
    assert len(values) == 8
    for split, name, value in values:
        assert value == metrics[{"validation": "valid"}.get(split, split)][names[name]]
    assert card.data.license == "other"
    assert card.data.library_name == "univa"
    parts = sections(card)
    assert list(parts) == SECTIONS
    for label, value in metrics["test"]["label_f1"].items():
        own = metrics["valid"]["label_f1"][label]
        assert f"| F1 of {label} | {own:.4f} | {value:.4f} |" in parts["Results"]
    assert f"epoch {metrics['best_epoch']}." in parts["Training"]
    assert "synthetic" in parts["Data"]
    assert "only NRC-VAD had a part" in parts["Licences"]
    for name in LICENCES:
        assert f"**{name}**" in parts["Licences"]
    assert str(finished) not in card.content
    # Every figure of the table is one of the run's.
    known = {f"{v:.4f}" for s in ("valid", "test") for v in metrics[s].values() if type(v) is float}
    known |= {f"{v:.4f}" for s in ("valid", "test") for v in metrics[s]["label_f1"].values()}
    assert set(re.findall(r"\d\.\d{4}", parts["Results"])) <= known


def test_a_checkpoint_on_the_way_has_no_figures_of_the_test_split(finished: Path, tmp_path: Path):
    card = ModelCard.load(finished / "checkpoints" / "last" / "README.md")
    assert card.data.eval_results is None
    assert "No figures: this model was saved without any." in sections(card)["Results"]
    metrics = json.loads((finished / "metrics.json").read_text())
    extra = {"epoch": 2, "thresholds": metrics["thresholds"], "valid": metrics["valid"]}
    model = UniVA.from_pretrained(finished / "checkpoints" / "best")
    save_checkpoint(tmp_path / "c", model, progress=Progress(), config=tiny(), extra=extra)
    card = ModelCard.load(tmp_path / "c" / "README.md")
    assert {one.dataset_split for one in card.data.eval_results} == {"validation"}
    assert "No figures of the test split" in sections(card)["Results"]


def test_a_model_saved_by_itself_says_that_nothing_is_stated(tmp_path: Path):
    config = ModelConfig(
        labels=("a: b", "c"), modalities=("audio",), hidden_size=8, num_heads=2, prior=False
    )
    UniVA(config).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    parts = sections(card)
    assert "Not stated by whoever saved this model" in parts["Data"]
    assert "Not stated by whoever saved this model" in parts["Licences"]
    assert "No figures" in parts["Results"]
    assert re.search(r"\d\.\d", parts["Results"]) is None
    assert "768 numbers per step, the first 750 steps" in card.text
    # The example of the card, run.
    code = parts["How to load"].split("```")[1].removeprefix("python\n")
    names: dict = {}
    exec(code.replace('"FOLDER"', repr(str(tmp_path))), names)
    assert names["model"].config == config


@pytest.mark.parametrize(
    ("preset", "encoder", "language"),
    [(mosei_roberta, "roberta-base", "en"), (m3ed_roberta, "hfl/chinese-roberta-wwm-ext", "zh")],
)
def test_real_corpora(preset, encoder, language):
    config = preset()
    config = replace(config, data=replace(config.data, folder="/home/alice/mosei-store"))
    card = ModelCard(model_card(config.model, run_facts(config)))
    assert card.data.base_model == encoder
    assert card.data.language == language
    assert "`mosei-store`" in sections(card)["Data"]
    assert "alice" not in card.content
    assert "Which of these had a part is for whoever trained" in sections(card)["Licences"]


def test_every_corpus_of_a_preset_has_its_licence_question():
    assert set(_CORPORA.values()) <= set(LICENCES)


def test_an_encoders_folder_is_not_in_the_card(tmp_path: Path):
    folder = tmp_path / "private" / "minilm"
    tiny_encoder("bert").save_pretrained(folder)
    config = ModelConfig(
        labels=("a", "b"),
        modalities=("text",),
        hidden_size=8,
        num_heads=2,
        prior=False,
        text_encoder=str(folder),
    )
    UniVA(config).save_pretrained(tmp_path / "model")
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.base_model is None
    assert "`minilm`" in card.text
    assert "private" not in card.content


def test_names_that_yaml_could_misread():
    config = ModelConfig(labels=("a",), modalities=("audio",), prior=False)
    metrics = {"accuracy": 0.5, "hamming_loss": 0.5, "micro_f1": 0.5, "macro_f1": 0.5}
    facts = CardFacts(
        dataset="no: [data] # é", metrics={"test": metrics | {"label_f1": {"a": 0.5}}}
    )
    card = ModelCard(model_card(config, facts))
    assert card.data.eval_results[0].dataset_name == "no: [data] # é"
