"""The model card: README.md of a model folder, Markdown with metadata for the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from univa.models.configuration import ModelConfig

__all__ = ["CARD_FILE", "CardFacts", "model_card"]

CARD_FILE = "README.md"
_ABSENT = "Not stated by whoever saved this model."
# Our metric -> its name on the Hub, where it has one there.
_METRICS = {
    "accuracy": ("jaccard", "Accuracy (sample-wise Jaccard)"),
    "hamming_loss": ("hamming_loss", "Hamming loss"),
    "micro_f1": ("f1", "Micro-F1"),
    "macro_f1": ("f1", "Macro-F1"),
}


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a model does not know of itself.

    Attributes:
        data: what it was trained on, in Markdown.
        dataset: name of that data in one line.
        training: how it was trained, in Markdown.
        metrics: split -> `Metrics.to_dict()`, unrounded; what is not there is said to be absent.
        thresholds: label -> decision threshold.
        probabilities: "softmax" or "sigmoid" of the logits.
        licences: licence questions of data and lexicons, in Markdown.
        language: code of the language of the texts, such as "en".
    """

    data: str = _ABSENT
    dataset: str | None = None
    training: str = _ABSENT
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    probabilities: str | None = None
    licences: str = (
        "Not stated by whoever saved this model. The licences of the data, of the lexicon and of "
        "the text encoder that it was trained with may bind these weights: ask before sharing them."
    )
    language: str | None = None


def model_card(config: ModelConfig, facts: CardFacts, *, name: str = "UniVA") -> str:
    """Write the card of a model.

    Args:
        config: of the model.
        facts: what else is known; no figure is in the card that is not here.
        name: of the model, for the results in the metadata.

    Returns:
        The file's content: YAML between two lines of dashes, then Markdown.
    """
    encoder = config.text_encoder if "text" in config.modalities else None
    labels = ", ".join(f"`{label}`" for label in config.labels)
    inputs = "\n".join(
        f"- {modality}: {_input(config, modality)}" for modality in config.modalities
    )
    return f"""---
{_metadata(config, facts, name)}
---

# {name}

Recognises {_number(len(config.labels), "emotion")} in the utterances of a dialogue, several at once
or none, from {", ".join(config.modalities)}. The model and its objective are those of Zheng, Yu and
Xia, ACM MM 2024 ([10.1145/3664647.3681638](https://doi.org/10.1145/3664647.3681638)); this is an
independent implementation, and not the authors' model.

Labels: {labels}.

Inputs:

{inputs}

## How to load

```python
from univa.models import UniVA

model = UniVA.from_pretrained("FOLDER")  # this folder; needs no network
```

`univa predict RUN dialogues.jsonl` and `univa.UniVAPipeline(RUN)` take the folder of the run, which
has the decision thresholds and the preprocessing too.

## Data

{facts.data}

## Training

{facts.training}

## Results

{_results(facts)}

## Intended use

Research on emotion recognition in dialogues, on utterances like those of the training data and
features of the same extractors{f" (text encoder `{_base(encoder)}`)" if encoder else ""}.

Not for decisions about people (hiring, schooling, policing, credit, health, insurance), not to
watch people who do not know of it, and not as a measurement of what somebody feels: it gives what
annotators would say that an utterance shows. Law restricts emotion recognition, above all at work
and in schools (in the European Union the AI Act); whoever uses it has to know the law that applies.

## Limits

- Labels are the judgement of annotators, who disagree; the figures above are bounded by that.
- Other languages, cultures, age groups, recordings and topics than those of the training data are
  untested, and so is any difference in errors between groups of speakers.
- Rare emotions have few examples: look at the F1 of each label, not at the mean alone.
- The thresholds were chosen on one validation split; other data may want others.
- Every modality above is needed for every utterance; there is no substitute for a missing one.

## Licences

{facts.licences}

The code is under the Apache License 2.0. `license: other` above means: decide by this section.
{_encoder_licence(encoder)}"""


def _metadata(config: ModelConfig, facts: CardFacts, name: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Multi-label emotion recognition",
            dataset_type="other",
            dataset_name=facts.dataset or "not stated",
            dataset_split="validation" if split == "valid" else split,
            metric_type=kind,
            metric_name=title,
            metric_value=values[key],
        )
        for split, values in facts.metrics.items()
        for key, (kind, title) in _METRICS.items()
    ]
    encoder = config.text_encoder if "text" in config.modalities else None
    data = ModelCardData(
        library_name="univa",
        license="other",
        license_name="see-section-licences",
        license_link=CARD_FILE,
        language=facts.language,
        base_model=encoder if encoder is not None and _is_hub_name(encoder) else None,
        metrics=["f1"] if results else None,
        model_name=name if results else None,
        eval_results=results or None,
        tags=["emotion-recognition", "multi-label", "multimodal", "valence-arousal", "univa"],
    )
    return data.to_yaml()


def _input(config: ModelConfig, modality: Any) -> str:
    if modality == "text" and config.text_encoder is not None:
        return f"the dialogue's transcript, read by the encoder `{_base(config.text_encoder)}`"
    what = {"text": "word vectors", "audio": "audio frames", "vision": "video frames"}[modality]
    return (
        f"{what}, {config.feature_size(modality)} numbers per step, the first "
        f"{config.max_length(modality)} steps"
    )


def _results(facts: CardFacts) -> str:
    if not facts.metrics:
        return "No figures: this model was saved without any. Evaluate it before use."
    splits = list(facts.metrics)
    lines = [f"| | {' | '.join(splits)} |", "|---|" + "---|" * len(splits)]
    for key, (_, title) in _METRICS.items():
        cells = [f"{facts.metrics[split][key]:.4f}" for split in splits]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    for label in facts.metrics[splits[0]]["label_f1"]:
        cells = [f"{facts.metrics[split]['label_f1'][label]:.4f}" for split in splits]
        lines.append(f"| F1 of {label} | {' | '.join(cells)} |")
    text = "\n".join(lines)
    if "test" not in facts.metrics:
        text += "\n\nNo figures of the test split: the run had not ended when this was saved."
    if facts.thresholds:
        chosen = ", ".join(f"{label} {value:g}" for label, value in facts.thresholds.items())
        text += (
            f"\n\nA label is predicted where the {facts.probabilities} of its logit is above its "
            f"threshold: {chosen}."
        )
    return text


def _is_hub_name(source: str) -> bool:
    """False where it can only be a folder, whose place is nobody's business."""
    return source.count("/") <= 1 and not source.startswith((".", "/")) and "\\" not in source


def _base(source: str) -> str:
    """A hub name, or the last part of a folder."""
    return source if _is_hub_name(source) else Path(source).name


def _encoder_licence(encoder: str | None) -> str:
    return f"The text encoder `{_base(encoder)}` has a licence of its own.\n" if encoder else ""


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
