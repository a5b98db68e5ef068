"""Emotions of one's own dialogues, from Python.

    from univa import UniVAPipeline

    pipeline = UniVAPipeline("runs/first")
    for prediction in pipeline([{"utterances": [{"text": "I did not expect that!"}]}]):
        print(prediction.id, prediction.emotions, prediction.probabilities)

The same batches, context and arithmetic as in `univa evaluate`: for the utterances of a split the
probabilities are those of its predictions, bit for bit where the batch size is the run's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from univa.batch import Modality
from univa.config import TrainConfig
from univa.data import Dialogue, Split
from univa.data.build import make_collator
from univa.errors import UserError
from univa.evaluation.evaluate import evaluation_sampler, predict
from univa.inference.dialogues import DialogueRecord, UtteranceRecord, parse_dialogue
from univa.media.decode import Clip
from univa.media.extract import MediaEncoder
from univa.metrics import decide
from univa.runs.layout import RunFolder, load_trained
from univa.utils.processes import choose_device, cpu_threads
from univa.va.regressor import VARegressor

__all__ = ["UniVAPipeline", "UtterancePrediction"]

_Loaded = tuple[DialogueRecord, Dialogue]  # as it was given, and as the model takes it


@dataclass(frozen=True, kw_only=True)
class UtterancePrediction:
    """What a model says about one utterance.

    Attributes:
        dialogue_id: the dialogue that it belongs to.
        id: its name.
        text: what was said, or None.
        emotions: the labels whose probability is above their threshold, likeliest first.
        probabilities: label -> probability, in the order of the model's labels. By the run's loss
            they sum to 1 (KL divergence) or are independent of each other (BCE).
        va: modality -> (valence, arousal), each in [-1, 1], or None where there was no text or
            media file to score; a modality without a scorer is absent.
    """

    dialogue_id: str
    id: str
    text: str | None
    emotions: tuple[str, ...]
    probabilities: dict[str, float]
    va: dict[Modality, tuple[float, float] | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return {
            "dialogue": self.dialogue_id,
            "id": self.id,
            "text": self.text,
            "emotions": list(self.emotions),
            "probabilities": self.probabilities,
            "va": {name: None if va is None else list(va) for name, va in self.va.items()},
        }


class UniVAPipeline:
    """The best checkpoint of a run, ready to predict.

    Args:
        run: a run folder of `univa train`.
        scorers: modality -> folder of a valence-arousal scorer (`univa va fit-text`, `fit-audio`,
            `fit-vision`), which reads texts and media files.
        encoders: modality -> what makes features of media files where an utterance has no
            features: the encoder (folder or hub name) that those of the training were extracted
            with, or a `MediaEncoder` with the settings of that extraction.
        batch_size: most utterances of a batch; the run's own if None. A dialogue with more is cut
            into batches; what its text encoder reads as context stays the same.
        device: where to compute.

    Attributes:
        labels: the emotions.
        modalities: what the model sees; every utterance needs all of them.
        thresholds: label -> the threshold that the run chose.

    Raises:
        UserError: this is no run folder, its checkpoint, a scorer or an encoder cannot be read or
            does not fit the model, or there is no such device.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        scorers: Mapping[Modality, str | Path] | None = None,
        encoders: Mapping[Modality, str | Path | MediaEncoder] | None = None,
        batch_size: int | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> None:
        config = TrainConfig.load(RunFolder(Path(run)).config)
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size: {batch_size} is less than 1; give a positive number")
        # Batches are made as dialogues come in, in this process.
        data = replace(config.data, workers=0, batch_size=batch_size or config.data.batch_size)
        self._config = replace(config, data=data)
        self._device = choose_device(device)
        trained = load_trained(Path(run), config=config, device=self._device)
        self._model, self._tokenizer = trained.model, trained.tokenizer
        self.labels: tuple[str, ...] = config.model.labels
        self.modalities: tuple[Modality, ...] = config.model.modalities
        self.thresholds: dict[str, float] = trained.thresholds
        self._scorers: dict[Modality, VARegressor] = {
            modality: VARegressor.from_pretrained(source, modality).to(self._device)
            for modality, source in (scorers or {}).items()
        }
        self._encoders: dict[Modality, MediaEncoder] = {
            modality: self._media_encoder(source, modality)
            for modality, source in (encoders or {}).items()
        }

    def _media_encoder(self, source: str | Path | MediaEncoder, modality: Modality) -> MediaEncoder:
        if modality not in self.modalities or modality == "text":
            raise UserError(
                f"the model takes no {modality} files (it sees {', '.join(self.modalities)}); "
                f"give no {modality} encoder"
            )
        encoder = source if isinstance(source, MediaEncoder) else MediaEncoder(source, modality)
        wanted = self._config.model.feature_size(modality)
        if encoder.size != wanted:
            raise UserError(
                f"{encoder.source}: gives {encoder.size} numbers per step, and the {modality} "
                f"features that the model reads have {wanted}; give the encoder it was trained on"
            )
        return encoder.to(self._device)

    def __call__(
        self, dialogues: Mapping[str, Any] | Iterable[Mapping[str, Any]]
    ) -> list[UtterancePrediction]:
        """Predict one dialogue or several, all at once.

        Args:
            dialogues: each as one line of the JSON lines that `univa predict` reads; features may
                be arrays [T, F] in place of paths, and paths start at the working folder.

        Returns:
            One prediction per utterance, in order.

        Raises:
            UserError: as `stream`.
        """
        many = [dialogues] if isinstance(dialogues, Mapping) else dialogues
        return list(self.stream(many))

    def stream(
        self, dialogues: Iterable[Mapping[str, Any] | DialogueRecord]
    ) -> Iterator[UtterancePrediction]:
        """Predict dialogues as they come; at most a batch of them is in memory.

        Args:
            dialogues: as for a call, or as `univa.inference.dialogues.read_dialogues` gives them.

        Yields:
            One prediction per utterance, in order, as soon as its batch is full.

        Raises:
            UserError: a dialogue is malformed, an utterance lacks a modality of the model, or a
                feature file cannot be read or does not fit: after the predictions of the dialogues
                before it. NaN in a feature file, and damage in a media file that is scored, show
                when their batch is made.
        """
        for batch in self._batches(self._checked(dialogues)):
            if isinstance(batch, UserError):
                raise batch
            yield from self._predict(batch)

    def _checked(
        self, dialogues: Iterable[Mapping[str, Any] | DialogueRecord]
    ) -> Iterator[_Loaded | UserError]:
        """The dialogues; a mistake ends them, as the last item."""
        config = self._config
        try:
            for number, one in enumerate(dialogues, 1):
                record = (
                    one
                    if isinstance(one, DialogueRecord)
                    else parse_dialogue(
                        one, number=number, place=f"dialogue {number}", folder=Path()
                    )
                )
                loaded = record.load(
                    config.model, reads_tokens=config.uses_tokens, encoders=self._encoders
                )
                for modality, scorer in self._scorers.items():
                    for utterance in record.utterances:
                        if modality in utterance.media:  # missing files are named here
                            with record.naming(utterance, modality):
                                scorer.preprocessor.rows([utterance.media[modality]])
                yield record, loaded
        except UserError as error:
            yield error

    def _batches(
        self, dialogues: Iterable[_Loaded | UserError]
    ) -> Iterator[list[_Loaded] | UserError]:
        """Pack dialogues as `DialogueBatchSampler` does, but as they come."""
        most, batch, size = self._config.data.batch_size, list[_Loaded](), 0
        for one in dialogues:
            count = 0 if isinstance(one, UserError) else len(one[1].utterances)
            if batch and (isinstance(one, UserError) or size + count > most):
                yield batch
                batch, size = [], 0
            if isinstance(one, UserError):
                yield one
                return
            batch.append(one)
            size += count
            if size >= most:  # whoever waits for this line need not wait for the next
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _predict(self, loaded: Sequence[_Loaded]) -> Iterator[UtterancePrediction]:
        config = self._config
        split = Split(name="test", dialogues=tuple(dialogue for _, dialogue in loaded))
        with cpu_threads(config.threads):  # the same sums as in training
            probabilities = predict(
                self._model,
                make_collator(config, split, self._model, tokenizer=self._tokenizer),
                evaluation_sampler(config, split.dialogue_lengths),
                config=config,
                device=self._device,
            )
        decisions = decide(probabilities, torch.tensor([*self.thresholds.values()]))
        given = [(record, one) for record, _ in loaded for one in record.utterances]
        points = self._score([one for _, one in given])
        rows = zip(given, probabilities.tolist(), decisions.tolist(), points, strict=True)
        for (record, one), row, decided, va in rows:
            chosen = [k for k in range(len(self.labels)) if decided[k]]
            chosen.sort(key=lambda k, row=row: -row[k])  # type: ignore[misc]
            yield UtterancePrediction(
                dialogue_id=record.id,
                id=one.id,
                text=one.text,
                emotions=tuple(self.labels[k] for k in chosen),
                probabilities=dict(zip(self.labels, row, strict=True)),
                va=va,
            )

    def _score(
        self, utterances: Sequence[UtteranceRecord]
    ) -> list[dict[Modality, tuple[float, float] | None]]:
        """Valence and arousal in each modality with a scorer."""
        result: list[dict[Modality, tuple[float, float] | None]] = [{} for _ in utterances]
        for modality, scorer in self._scorers.items():
            items: list[Any] = [
                one.text if modality == "text" else one.media.get(modality) for one in utterances
            ]
            there = [k for k, item in enumerate(items) if not _blank(item)]
            scores = scorer.score(
                [items[k] for k in there], batch_size=self._config.data.batch_size
            )
            if not bool(scores.isfinite().all()):
                raise UserError(f"the {modality} scorer gives scores that are not finite")
            points = dict(zip(there, scores.tolist(), strict=True))
            for k, one in enumerate(result):
                one[modality] = (points[k][0], points[k][1]) if k in points else None
        return result


def _blank(item: str | Clip | None) -> bool:
    return item is None or (isinstance(item, str) and not item.strip())
