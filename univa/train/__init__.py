"""Train UniVA.

    univa train demo                                             # one process, CPU or GPU
    python -m univa.train mosei-text --data FOLDER --va-file VA.json
    torchrun --nproc-per-node 2 -m univa.train demo              # two processes, gloo or NCCL
    univa train demo --device cpu --epochs 1 --data.synthetic.train-dialogues 8   # seconds
    univa train --resume runs/demo-20250131-120000               # go on where it stopped

The run folder holds

    config.json         the resolved config
    environment.json    versions, machine, device
    log.jsonl           one object per step and per epoch
    checkpoints/best    the epoch with the best validation micro-F1
    checkpoints/last    where `--resume` goes on, bit for bit
    predictions.jsonl   what the best epoch says about each test utterance
    labels.json, threshold_curves.json   figures per label, and metrics by threshold
    metrics.json        validation and test at the thresholds of the best epoch; written last
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from univa.batch import Batch
from univa.config import TrainConfig
from univa.data.batching.loader import load_batches
from univa.errors import UserError
from univa.evaluation.evaluate import evaluate_best, predict
from univa.evaluation.tables import (
    curve_table,
    label_figures,
    label_table,
    metrics_table,
    write_reports,
)
from univa.metrics import choose_thresholds_on_validation, compute_metrics, decide
from univa.models.card import CARD_FILE, model_card
from univa.runs.card import run_facts
from univa.runs.checkpoint import load_checkpoint, save_checkpoint
from univa.runs.log import find_run
from univa.runs.predictions import write_predictions
from univa.train.setup import Run, set_up
from univa.utils.console import note
from univa.utils.console import progress as show_progress
from univa.utils.files import atomic_write_json, atomic_write_text
from univa.utils.lock import FolderLock
from univa.utils.processes import Interrupted, ProcessGroup, StopRequest, cpu_threads
from univa_kernels import UniVALossOutput

__all__ = ["train"]


def train(config: TrainConfig) -> dict[str, Any] | None:
    """Train, choose the best epoch and the thresholds on validation, then score the test split.

    Args:
        config: the run. Under torchrun every process calls this with the same config.

    Returns:
        The content of `metrics.json`; None in the processes that do not write the run folder.

    Raises:
        UserError: bad input, a run folder that is in use, a checkpoint of another config, or a
            loss that is not finite, or another process of the run was lost.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    group = ProcessGroup.start(config.device, timeout=config.timeout)
    try:
        with cpu_threads(config.threads):
            config = config.resolved()
            path, checkpoint = find_run(config)
            with group.watched(path), FolderLock(path) as lock:
                started = time.perf_counter()
                run = set_up(config, group, path, checkpoint, lock)
                train_epochs(run)
                return finish(run, started) if group.is_main else None
    finally:
        group.stop()


def train_epochs(run: Run) -> None:
    """Train and validate from where the run stands to its last epoch; all processes together."""
    config, group, progress = run.config, run.group, run.progress
    accumulate = config.optimizer.accumulate
    bar = show_progress(
        total=progress.total_steps,
        initial=progress.step,
        enabled=group.is_main and config.progress,
    )
    try:
        with StopRequest() as stop:
            while progress.epoch < config.epochs:
                batches = run.sampler.batches(progress.epoch)  # of this process
                sizes = run.sampler.sizes(progress.epoch)  # of all processes together
                first = progress.batch * accumulate
                stream = load_batches(
                    run.collator,
                    batches[first:],
                    workers=config.data.workers,
                    pin=run.device.type == "cuda",
                )
                for start in range(first, len(batches), accumulate):
                    stop_at = min(start + accumulate, len(batches))
                    loss, stop_now = train_step(run, stream, sizes[start:stop_at], stop.requested)
                    bar.set_postfix(epoch=progress.epoch + 1, loss=f"{loss:.3f}", refresh=False)
                    bar.update()
                    if stop_now:
                        stop.now()
                    if config.save_every and progress.step % config.save_every == 0:
                        run.save_last()

                # Several processes stop together, at the next step.
                validate(run, between_batches=stop.check if group.size == 1 else None)
                progress.epoch += 1
                progress.batch = 0
                run.save_last()
            # A signal since the last step's agreement: the processes agree once more.
            if group.mean(torch.zeros(1, device=run.device), stop.requested)[1]:
                stop.now()
    except StopRequest.Stop as request:
        run.save_last()
        raise Interrupted(
            request.signal, run.folder.path, progress.step, progress.total_steps
        ) from None
    finally:
        bar.close()
        if run.log is not None:
            run.log.close()


def train_step(
    run: Run, stream: Iterator[Batch], sizes: Sequence[int], stop_requested: bool
) -> tuple[float, bool]:
    """One step of the optimizer; all processes together.

    Args:
        run: the run; its progress moves on by one step.
        stream: gives the batches of this process.
        sizes: utterances of each batch of the step, in all processes together.
        stop_requested: whether this process was asked to stop.

    Returns:
        The loss, and whether any process was asked to stop.

    Raises:
        UserError: the loss or its gradient is not finite, or the log cannot be written.
    """
    begun = time.perf_counter()
    config, group, progress = run.config, run.group, run.progress
    total = sum(sizes)
    run.optimizer.zero_grad(set_to_none=True)
    logged: dict[str, Tensor] = {}
    # DistributedDataParallel averages over processes; an utterance weighs the same in whichever
    # process and batch it is.
    for number, (size, loaded) in enumerate(zip(sizes, stream, strict=False), 1):
        batch = loaded.to(run.device, non_blocking=True)
        share = size if config.loss.gather else len(batch) * group.size
        with _without_sync(run.objective, until=number == len(sizes)):
            terms = run.objective(batch)
            (terms.total * (share / total)).backward()
        for name, value in _named_terms(terms).items():
            logged[name] = logged.get(name, 0.0) + value * (share / total)
    logged["grad_norm"] = nn.utils.clip_grad_norm_(
        run.model.parameters(), config.optimizer.clip_norm or math.inf
    )
    # One transfer for all that is logged. The processes agree here on stopping.
    values, stop_now = group.mean(torch.stack([*logged.values()]), stop_requested)
    record = dict(zip(logged, values, strict=True))
    if not all(map(math.isfinite, values)):
        raise _not_finite(record, progress.epoch + 1, progress.step + 1, batch)
    learning_rate = run.optimizer.param_groups[0]["lr"]
    run.optimizer.step()
    run.scheduler.step()
    progress.batch += 1
    progress.step += 1
    if run.log is not None:
        run.log.write(
            event="step",
            epoch=progress.epoch + 1,
            step=progress.step,
            **record,
            learning_rate=learning_rate,
            utterances=total,
            seconds=round(time.perf_counter() - begun, 5),
        )
    return values[0], stop_now


def validate(run: Run, *, between_batches: Callable[[], None] | None) -> None:
    """Choose thresholds on validation, log the epoch and save it if it is the best.

    All processes call this together; one decides and writes.

    Args:
        run: the run, an epoch trained.
        between_batches: called after each batch; may raise to stop.
    """
    config, progress, labels = run.config, run.progress, run.corpus.valid.labels
    names, epoch = config.model.labels, progress.epoch + 1
    probabilities = predict(
        run.model,
        run.valid_collator,
        run.valid_sampler,
        config=config,
        device=run.device,
        group=run.group,
        between_batches=between_batches,
    )
    if run.log is None:
        return
    thresholds = choose_thresholds_on_validation(
        probabilities,
        labels,
        search=config.threshold.search,
        fixed=config.threshold.value,
        objective=config.threshold.objective,
    )
    metrics = compute_metrics(decide(probabilities, thresholds), labels, names)
    result = {
        "epoch": epoch,
        "thresholds": dict(zip(names, thresholds.tolist(), strict=True)),
        "valid": metrics.to_dict(),
    }
    if metrics.micro_f1 > progress.best_micro_f1:
        progress.best_epoch, progress.best_micro_f1 = epoch, metrics.micro_f1
        save_checkpoint(
            run.folder.best,
            run.model,
            progress=progress,
            config=config,
            tokenizer=run.tokenizer,
            extra=result,
        )
    run.log.write(event="epoch", step=progress.step, **result)
    if config.progress:
        note(f"epoch {epoch}  valid  {metrics}")


def finish(run: Run, started: float) -> dict[str, Any]:
    """Score the best epoch on validation and test; write and print the results.

    Args:
        run: the run, trained to its end.
        started: `time.perf_counter()` at the start.

    Returns:
        The content of `metrics.json`.
    """
    config, folder, names = run.config, run.folder, run.config.model.labels
    # The only place that sees the test split. Nothing is chosen from here on.
    checkpoint = load_checkpoint(folder.best, config=config, best=True)
    meta = checkpoint.meta
    results = evaluate_best(
        folder.path, config, ("valid", "test"), corpus=run.corpus, device=run.device
    )
    scores = {name: result.metrics for name, result in results.items()}
    content = {
        "preset": config.preset,
        "seed": config.seed,
        "best_epoch": meta["epoch"],
        "thresholds": meta["thresholds"],
        **{name: metrics.to_dict() for name, metrics in scores.items()},
    }
    card = run_facts(
        config,
        epoch=meta["epoch"],
        thresholds=meta["thresholds"],
        metrics={name: metrics.to_dict() for name, metrics in scores.items()},
    )
    atomic_write_text(checkpoint.folder / CARD_FILE, model_card(config.model, card))
    write_predictions(folder.predictions, results["test"])
    write_reports(folder.path, results, names, predictions=False)
    atomic_write_json(folder.metrics, content)
    print(metrics_table(scores))
    test = results["test"]
    print(label_table(label_figures(test.predictions, test.labels, names)))
    print("valid, with one threshold for all labels")
    print(curve_table(results["valid"].probabilities, results["valid"].labels, names))
    seconds = time.perf_counter() - started
    note(
        f"best epoch {meta['epoch']} of {config.epochs}; {seconds:.0f} s; run folder: {folder.path}"
    )
    return content


def _without_sync(objective: nn.Module, *, until: bool) -> AbstractContextManager[None]:
    """Leave gradients in their process, but for the last batch of a step."""
    if until or not isinstance(objective, DistributedDataParallel):
        return nullcontext()
    return objective.no_sync()


def _named_terms(terms: UniVALossOutput) -> dict[str, Tensor]:
    named = {"loss": terms.total, "classification": terms.classification, "prior": terms.prior}
    named |= {f"contrastive_{name}": value for name, value in terms.contrastive.items()}
    return {name: value.detach().float() for name, value in named.items()}


def _not_finite(record: dict[str, float], epoch: int, step: int, batch: Batch) -> UserError:
    values = ", ".join(f"{name} {value:.4g}" for name, value in record.items())
    return UserError(
        f"step {step} (epoch {epoch}, utterances {batch.utterance_ids[0]} to "
        f"{batch.utterance_ids[-1]}): the loss or its gradient is not finite ({values}); lower "
        "--optimizer.learning-rate or raise --loss.temperature"
    )
