"""A sample of the training split, and what runs make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from univa.batch import MODALITIES, Modality
from univa.data import Corpus, Utterance
from univa.data.build import load_corpus, make_collator, make_normalizer
from univa.errors import UserError
from univa.evaluation.evaluate import evaluation_sampler, run_batches
from univa.figures.style import shorten
from univa.runs.layout import load_trained
from univa.runs.read import FinishedRun
from univa.utils.console import progress

__all__ = ["Sample", "choose_utterances", "load_corpora", "sample_training"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """S utterances of the training split, seen by R runs.

    Attributes:
        total: utterances of the whole split.
        utterances: the S utterances, in the order of the split.
        labels: [S, L] bool.
        coordinates: modality -> [S, 2] float32 (valence, arousal), normalised as in training; a
            modality without scores is absent.
        embeddings: for each run, modality -> [S, D] float32 on the CPU.
        differing: (place of a run, modality, place of another) where the first run's scores are
            not `coordinates`, which are the other's.
    """

    total: int
    utterances: tuple[Utterance, ...]
    labels: Tensor
    coordinates: dict[Modality, Tensor]
    embeddings: list[dict[Modality, Tensor]]
    differing: tuple[tuple[int, Modality, int], ...] = ()

    def first(self, count: int) -> Tensor:
        """Places of `count` of the S utterances, spread evenly over the sample. int64."""
        size = len(self.utterances)
        return torch.arange(min(count, size)) * size // min(count, size)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that any of the runs has, in their usual order."""
        return tuple(name for name in MODALITIES if any(name in one for one in self.embeddings))

    @property
    def unscored(self) -> tuple[Modality, ...]:
        """Those of `modalities` without valence-arousal scores."""
        return tuple(name for name in self.modalities if name not in self.coordinates)


def load_corpora(runs: Sequence[FinishedRun]) -> list[Corpus]:
    """The corpus of each run; one that several runs have in common is read once.

    Raises:
        UserError: the data cannot be read, or the runs were not trained on the same utterances.
    """
    corpora: list[Corpus] = []
    for run in runs:
        same = (
            corpora[place]
            for place, other in enumerate(runs[: len(corpora)])
            if (other.config.data, other.config.model) == (run.config.data, run.config.model)
        )
        corpora.append(next(same, None) or load_corpus(run.config))
    first = [utterance.id for utterance in corpora[0].train.utterances]
    for run, corpus in zip(runs, corpora, strict=True):
        if [utterance.id for utterance in corpus.train.utterances] != first:
            raise UserError(
                f"{run.folder}: its training utterances are not those of {runs[0].folder}; compare "
                "runs on one corpus"
            )
        test = tuple(utterance.id for utterance in corpus.test.utterances)
        if test != run.utterance_ids:
            raise UserError(
                f"{run.folder}: predictions.jsonl is not of the test split of {corpus.source}; is "
                "the data still what it was?"
            )
    return corpora


def choose_utterances(total: int, limit: int, *, seed: int = 0) -> Tensor:
    """At most `limit` of `total` utterances, drawn without replacement.

    Args:
        total: utterances that there are.
        limit: how many to take at most.
        seed: decides the draw.

    Returns:
        Ascending places, int64.
    """
    if limit >= total:
        return torch.arange(total)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:limit].sort().values


def sample_training(
    runs: Sequence[FinishedRun],
    corpora: Sequence[Corpus],
    *,
    limit: int,
    device: torch.device,
    seed: int = 0,
) -> Sample:
    """Embed a sample of the training split with the best epoch of each run.

    Args:
        runs: the runs.
        corpora: the corpus of each.
        limit: most utterances; memory and time grow with it.
        device: where to compute.
        seed: decides which utterances.

    Raises:
        UserError: a checkpoint or the data cannot be read.
    """
    train = corpora[0].train
    chosen = choose_utterances(len(train), limit, seed=seed)
    coordinates: dict[Modality, Tensor] = {}
    owner: dict[Modality, int] = {}
    differing: list[tuple[int, Modality, int]] = []
    for place, (run, corpus) in enumerate(zip(runs, corpora, strict=True)):
        normalizer = make_normalizer(run.config, corpus.train)
        for name in corpus.train.coordinate_modalities:
            if name not in run.config.model.modalities:
                continue
            normalized = normalizer.apply(corpus.train.coordinates(name), name)[chosen]
            if not torch.equal(coordinates.setdefault(name, normalized), normalized):
                differing.append((place, name, owner[name]))
            owner.setdefault(name, place)
    return Sample(
        total=len(train),
        utterances=tuple(train.utterances[i] for i in chosen.tolist()),
        labels=train.labels[chosen].bool(),
        coordinates=coordinates,
        embeddings=[
            _embed(run, corpus, chosen, device) for run, corpus in zip(runs, corpora, strict=True)
        ],
        differing=tuple(differing),
    )


def _embed(
    run: FinishedRun, corpus: Corpus, chosen: Tensor, device: torch.device
) -> dict[Modality, Tensor]:
    """Embeddings of the chosen utterances: [S, D] each."""
    config = run.config
    trained = load_trained(run.folder, config=config, device=device)
    collator = make_collator(config, corpus.train, trained.model, tokenizer=trained.tokenizer)
    row_of = {index: row for row, index in enumerate(chosen.tolist())}
    batches = evaluation_sampler(config, corpus.train.dialogue_lengths).batches(0)
    batches = [kept for batch in batches if (kept := [i for i in batch if i in row_of])]
    embeddings: dict[Modality, Tensor] = {
        name: torch.empty(len(chosen), config.model.hidden_size) for name in config.model.modalities
    }
    outputs = run_batches(trained.model, collator, batches, config=config, device=device)
    for indices, output in progress(
        outputs, f"embedding, {shorten(run.name)}", unit="batch", total=len(batches)
    ):
        rows = [row_of[i] for i in indices]
        for name, values in output.embeddings.items():
            embeddings[name][rows] = values.float().cpu()
    return embeddings
