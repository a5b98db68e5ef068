"""Score a run's best checkpoint.

    univa evaluate runs/demo-20250131-120000
    univa evaluate runs/demo-20250131-120000 --split valid --output valid.json --report valid

It prints metrics, figures per label and metrics by threshold, and saves them and the predictions.
Training ends with the same code, so the numbers are those of the run's `metrics.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from univa.config import TrainConfig
from univa.data import Collator, Corpus, DialogueBatchSampler
from univa.data.batching.loader import load_batches
from univa.data.build import load_corpus, make_collator
from univa.evaluation.tables import (
    curve_table,
    label_figures,
    label_table,
    metrics_table,
    write_reports,
)
from univa.metrics import compute_metrics, decide
from univa.models import UniVA, UniVAOutput
from univa.runs.layout import RunFolder, load_trained
from univa.runs.predictions import SplitResult
from univa.utils.files import atomic_write_json, check_writable
from univa.utils.processes import ProcessGroup, choose_device, cpu_threads

__all__ = [
    "Evaluate",
    "evaluate_best",
    "predict",
    "run_batches",
]


@torch.no_grad()
def run_batches(
    model: UniVA,
    collator: Collator,
    batches: Sequence[Sequence[int]],
    *,
    config: TrainConfig,
    device: torch.device,
) -> Iterator[tuple[Sequence[int], UniVAOutput]]:
    """What a model says about batches of utterances, batch by batch, without gradients.

    Args:
        model: on `device`, in the mode that is wanted.
        collator: of the split.
        batches: utterances of each batch.
        config: for precision and workers.
        device: where to compute.

    Yields:
        The utterances of a batch, and the model's output for them on `device`.
    """
    loader = load_batches(collator, batches, workers=config.data.workers, pin=device.type == "cuda")
    for indices, loaded in zip(batches, loader, strict=True):
        batch = loaded.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            output = model(**batch.inputs)
        yield indices, output


@torch.no_grad()
def predict(
    model: UniVA,
    collator: Collator,
    sampler: DialogueBatchSampler,
    *,
    config: TrainConfig,
    device: torch.device,
    group: ProcessGroup | None = None,
    between_batches: Callable[[], None] | None = None,
) -> Tensor:
    """Probabilities of every utterance, the model in eval mode and left in the mode it was in.

    Args:
        model: on `device`.
        collator: of the split.
        sampler: covers the split once per epoch.
        config: for precision and for what turns logits into probabilities.
        device: where to compute.
        group: processes that share the work, all of which call this and get the whole; None is this
            process alone.
        between_batches: called after each batch; may raise to stop.

    Returns:
        [N, L] float32 on the CPU, in the order of the split's utterances.
    """
    was_training = model.training
    model.eval()
    probabilities = torch.zeros(len(collator), len(config.model.labels))
    try:
        batches = sampler.batches(0)
        if group is not None:
            batches = batches[group.rank :: group.size]
        for indices, output in run_batches(model, collator, batches, config=config, device=device):
            logits = output.logits.float()
            kl = config.loss.classification == "kl"
            chances = logits.softmax(dim=-1) if kl else logits.sigmoid()
            probabilities[indices] = chances.cpu()
            if between_batches is not None:
                between_batches()
    finally:
        model.train(was_training)
    # Every row is filled in one process and 0 in the others, so the sum is exact.
    return probabilities if group is None else group.sum(probabilities)


def evaluate_best(
    run: Path,
    config: TrainConfig,
    splits: tuple[str, ...],
    *,
    corpus: Corpus | None = None,
    device: torch.device | None = None,
) -> dict[str, SplitResult]:
    """Reload the best checkpoint of a run and score it with the thresholds that it carries.

    Args:
        run: the run folder.
        config: the run's config.
        splits: names of the splits to score.
        corpus: the corpus of the config, where it is loaded already.
        device: where to compute; by the config when None.

    Returns:
        split name -> result.

    Raises:
        UserError: the checkpoint or the data cannot be read, or do not belong together.
    """
    device = choose_device(config.device) if device is None else device
    trained = load_trained(run, config=config, device=device)
    corpus = load_corpus(config) if corpus is None else corpus
    thresholds = torch.tensor([*trained.thresholds.values()])
    results = {}
    for name in splits:
        split = corpus.splits[name]
        probabilities = predict(
            trained.model,
            make_collator(config, split, trained.model, tokenizer=trained.tokenizer),
            evaluation_sampler(config, split.dialogue_lengths),
            config=config,
            device=device,
        )
        predictions = decide(probabilities, thresholds)
        results[name] = SplitResult(
            utterance_ids=tuple(item.id for item in split.utterances),
            probabilities=probabilities,
            predictions=predictions,
            labels=split.labels,
            metrics=compute_metrics(predictions, split.labels, config.model.labels),
        )
    return results


def evaluation_sampler(config: TrainConfig, dialogue_lengths: list[int]) -> DialogueBatchSampler:
    """Batches in the order of the split, the same in training and afterwards."""
    return DialogueBatchSampler(
        dialogue_lengths, batch_size=config.data.batch_size, shuffle=False, seed=0
    )


@dataclass(kw_only=True)
class Evaluate:
    """Score the best checkpoint of a run: metrics, figures per label, metrics by threshold."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    split: Literal["test", "valid", "train"] = "test"
    """Which split to score."""
    output: Path | None = None
    """JSON file for the unrounded metrics."""
    report: Path | None = None
    """Folder for figures per label, threshold curves and predictions; evaluation-SPLIT in the run
    folder if left out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""

    def run(self) -> dict[str, Any]:
        """Print the tables and save the report; return the unrounded metrics.

        Raises:
            UserError: this is not a run folder, its data or checkpoint cannot be read, or the
                output cannot be written.
        """
        config = TrainConfig.load(RunFolder(self.run_folder).config)
        device = choose_device(self.device)
        report = self.report or self.run_folder / f"evaluation-{self.split}"
        check_writable(RunFolder(report).label_figures)
        if self.output is not None:
            check_writable(self.output)
        with cpu_threads(config.threads):  # the same sums as in training
            results = evaluate_best(self.run_folder, config, (self.split,), device=device)
        result = results[self.split]
        metrics = result.metrics
        print(metrics_table({self.split: metrics}))
        names = config.model.labels
        print(label_table(label_figures(result.predictions, result.labels, names)))
        print(curve_table(result.probabilities, result.labels, names))
        write_reports(report, results, names, predictions=True)
        print(f"figures, curves and predictions of {len(result.labels)} utterances: {report}")
        content: dict[str, Any] = {self.split: metrics.to_dict()}
        if self.output is not None:
            atomic_write_json(self.output, content)
        return content
