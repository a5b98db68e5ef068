"""What the model card of a run says: its data, its settings, its metrics, its licence questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from univa.config import TrainConfig
from univa.models.card import CardFacts

__all__ = ["LICENCES", "run_facts"]

# What is known for sure, and the question that is left.
LICENCES = {
    "CMU-MOSEI": "videos of speakers on YouTube, with features and labels from the CMU Multimodal "
    "SDK. The videos belong to who uploaded them, and the speakers can be recognised. Whether "
    "weights trained on it may be shared, or used commercially, is for the terms under which you "
    "got it.",
    "CMU-MOSI": "film reviews of speakers on YouTube (Zadeh et al., 2016), features and labels "
    "from the CMU Multimodal SDK. The same questions.",
    "M3ED": "clips of 56 Chinese television series (Zhao et al., ACL 2022), which belong to their "
    "producers. The same questions.",
    "EmoBank": "sentences with valence and arousal, CC BY-SA 4.0. Whether a scorer fitted on it, "
    "and a model trained with that scorer's output, must carry the same licence is not settled; "
    "name EmoBank (Buechel and Hahn, EACL 2017) in any case.",
    "NRC-VAD": "valence, arousal and dominance of words (Mohammad, ACL 2018). The lexicon may not "
    "be redistributed; ask its owner before commercial use. A model with the emotion-correlation "
    "prior starts from its coordinates of the labels.",
}


def run_facts(
    config: TrainConfig,
    *,
    epoch: int | None = None,
    thresholds: Mapping[str, float] | None = None,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
) -> CardFacts:
    """What a run knows about its model.

    Args:
        config: of the run.
        epoch: which the weights are of; None leaves it out.
        thresholds: label -> decision threshold.
        metrics: split -> `Metrics.to_dict()`.
    """
    dataset, data, language = _data(config)
    loss, optimizer = config.loss, config.optimizer
    kind = "softmax" if loss.classification == "kl" else "sigmoid"
    contrastive = (
        f"contrastive loss with weight {loss.alpha:g}, temperature {loss.temperature:g}, radius "
        f"{loss.radius:g} in normalised valence-arousal space"
        if loss.alpha > 0
        else "no contrastive loss"
    )
    prior = "no prior" if loss.prior is None else f"emotion-correlation prior ({loss.prior})"
    of = "" if epoch is None else f" These weights are of epoch {epoch}."
    training = (
        f"Preset `{config.preset}`, seed {config.seed}: {config.epochs} epochs of AdamW at "
        f"{optimizer.learning_rate:g}, batches of {config.data.batch_size} utterances, "
        f"{config.precision}; {contrastive}; {prior}; classification by {kind} "
        f"({loss.classification.upper()}). The epoch and the thresholds were chosen on the "
        f"validation split.{of}"
    )
    lines = "\n".join(f"- **{name}**: {text}" for name, text in LICENCES.items())
    return CardFacts(
        data=data,
        dataset=dataset,
        training=training,
        metrics=metrics or {},
        thresholds=thresholds or {},
        probabilities=kind,
        licences=f"{_applies(config)}\n\n{lines}",
        language=language,
    )


def _data(config: TrainConfig) -> tuple[str, str, str | None]:
    """Name, description and language of the data."""
    data = config.data
    if data.source == "synthetic":
        return (
            "synthetic corpus of univa",
            "The synthetic corpus of this project: invented dialogues whose words, audio and video "
            f"features follow from the seed {data.synthetic.seed}. No person speaks in it, and the "
            "model is of no use for real utterances.",
            "en",
        )
    folder = Path(data.folder or "").name
    corpus = next((name for key, name in _CORPORA.items() if config.preset.startswith(key)), None)
    named = f"made for {corpus}; " if corpus else ""
    text = (
        f"`{folder}`, read as `{data.source}` by the preset `{config.preset}` ({named}what was in "
        "it is for whoever trained the model to say)."
    )
    if data.va_file is not None:
        text += f" Valence and arousal: `{Path(data.va_file).name}`."
    return folder, text, {"CMU-MOSEI": "en", "CMU-MOSI": "en", "M3ED": "zh"}.get(corpus or "")


_CORPORA = {"mosei": "CMU-MOSEI", "mosi": "CMU-MOSI", "m3ed": "M3ED"}  # beginning of a preset


def _applies(config: TrainConfig) -> str:
    if config.data.source == "synthetic":
        lexicon = "of these only NRC-VAD" if config.model.prior else "none of these"
        return f"The training data is synthetic: {lexicon} had a part in this model."
    return (
        "Which of these had a part is for whoever trained the model to say (section Data). Sharing "
        "the weights may be sharing what they were made of:"
    )
