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
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from univa.batch import Batch
from univa.config import TrainConfig
from univa.data.batching.loader import load_batches
from univa.data.build import (
    load_corpus,
    load_tokenizer,
    make_collator,
    make_normalizer,
    make_sampler,
)
from univa.data.lexicon import read_lexicon, similarity_matrix
from univa.data.store.read import check_shards
from univa.errors import UserError
from univa.evaluation.evaluate import evaluate_best, evaluation_sampler, predict
from univa.evaluation.tables import (
    curve_table,
    label_figures,
    label_table,
    metrics_table,
    write_reports,
)
from univa.metrics import choose_thresholds_on_validation, compute_metrics, decide
from univa.models import UniVA
from univa.models.authors import start_as_authors
from univa.models.card import CARD_FILE, model_card
from univa.runs.card import run_facts
from univa.runs.checkpoint import (
    Checkpoint,
    Progress,
    load_checkpoint,
    random_state,
    save_checkpoint,
)
from univa.runs.environment import describe_environment
from univa.runs.layout import RunFolder, load_tokenizer_of
from univa.runs.log import RunLog, find_run, tensorboard_writer
from univa.runs.predictions import write_predictions
from univa.train.objective import Objective
from univa.train.optim import make_optimizer, restore, seed_everything
from univa.utils.console import note
from univa.utils.console import progress as show_progress
from univa.utils.files import atomic_write_json, atomic_write_text, make_folder
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
            run, checkpoint = find_run(config)
            with group.watched(run), FolderLock(run) as lock:
                return _train(config, group, run, checkpoint, lock)
    finally:
        group.stop()


def _train(
    config: TrainConfig,
    group: ProcessGroup,
    run: Path,
    checkpoint: Checkpoint | None,
    lock: FolderLock,
) -> dict[str, Any] | None:
    started = time.perf_counter()
    device, names, layout = group.device, config.model.labels, RunFolder(run)

    if config.tensorboard:
        tensorboard_writer()  # or a message that it is missing
    # Data and model first: what is wrong with them is found before anything is written.
    corpus = load_corpus(config)
    for split in (corpus.valid, corpus.test):  # they are not read before hours have passed
        check_shards(split)
    valid_sampler = evaluation_sampler(config, corpus.valid.dialogue_lengths)
    seed_everything(config.seed)
    if checkpoint is None:
        tokenizer = load_tokenizer(str(config.model.text_encoder)) if config.uses_tokens else None
        lexicon = read_lexicon(config.data.lexicon) if config.data.lexicon is not None else None
        matrix = similarity_matrix(names, lexicon) if config.model.prior else None
        model = UniVA(config.model, similarity=matrix)
        if config.authors:
            start_as_authors(model.encoders.values())
    else:
        tokenizer = load_tokenizer_of(checkpoint.folder, config)
        model = UniVA.from_pretrained(checkpoint.folder)
    model.to(device).train()
    normalizer = make_normalizer(config, corpus.train)
    collator = make_collator(
        config, corpus.train, model, tokenizer=tokenizer, normalizer=normalizer
    )
    sampler = make_sampler(config, collator, rank=group.rank, world_size=group.size)
    valid_collator = make_collator(config, corpus.valid, model, tokenizer=tokenizer)

    accumulate = config.optimizer.accumulate
    progress = Progress(total_steps=sampler.total_steps(config.epochs, accumulate))
    optimizer, scheduler = make_optimizer(config, model, progress.total_steps)
    seed_everything(config.seed + group.rank)  # each process has its own dropout
    if checkpoint is not None:
        progress = restore(checkpoint, progress, optimizer, scheduler, group)
    if config.compile:
        model.compile(dynamic=True)
    objective: nn.Module = Objective(config, model)
    if group.size > 1:
        objective = DistributedDataParallel(
            objective,
            device_ids=[device.index] if device.type == "cuda" else None,
            # Some pretrained encoders have parameters that their output does not depend on.
            find_unused_parameters=config.uses_tokens,
        )

    log = None
    if group.is_main:
        make_folder(run, mend="give another --run-folder")
        lock.take()
        if checkpoint is None:
            config.save(layout.config)
            atomic_write_json(layout.environment, describe_environment(device))
        log = RunLog(
            layout.log,
            keep_bytes=progress.log_bytes,
            tensorboard=(run / "tensorboard") if config.tensorboard else None,
            step=progress.step,
        )

    def save_last() -> None:
        states = group.gather(random_state())
        if log is not None:
            progress.log_bytes = log.flush()
            save_checkpoint(
                layout.last,
                model,
                progress=progress,
                config=config,
                tokenizer=tokenizer,
                state={
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "random": states,
                },
            )
        group.wait()

    bar = show_progress(
        total=progress.total_steps,
        initial=progress.step,
        enabled=group.is_main and config.progress,
    )
    try:
        with StopRequest() as stop:
            while progress.epoch < config.epochs:
                epoch = progress.epoch + 1
                batches = sampler.batches(progress.epoch)  # of this process
                sizes = sampler.sizes(progress.epoch)  # of all processes together
                first = progress.batch * accumulate
                stream = load_batches(
                    collator,
                    batches[first:],
                    workers=config.data.workers,
                    pin=device.type == "cuda",
                )
                for start in range(first, len(batches), accumulate):
                    begun = time.perf_counter()
                    stop_at = min(start + accumulate, len(batches))
                    total = sum(sizes[start:stop_at])
                    optimizer.zero_grad(set_to_none=True)
                    logged: dict[str, Tensor] = {}
                    # DistributedDataParallel averages over processes; an utterance weighs the same
                    # in whichever process and batch it is.
                    for k, batch in zip(range(start, stop_at), stream, strict=False):
                        batch = batch.to(device, non_blocking=True)
                        share = sizes[k] if config.loss.gather else len(batch) * group.size
                        with _without_sync(objective, until=k + 1 == stop_at):
                            terms = objective(batch)
                            (terms.total * (share / total)).backward()
                        for name, value in _named_terms(terms).items():
                            logged[name] = logged.get(name, 0.0) + value * (share / total)
                    logged["grad_norm"] = nn.utils.clip_grad_norm_(
                        model.parameters(), config.optimizer.clip_norm or math.inf
                    )
                    # One transfer for all that is logged. The processes agree here on stopping.
                    values, stop_now = group.mean(torch.stack([*logged.values()]), stop.requested)
                    record = dict(zip(logged, values, strict=True))
                    if not all(map(math.isfinite, values)):
                        raise _not_finite(record, epoch, progress.step + 1, batch)
                    learning_rate = optimizer.param_groups[0]["lr"]
                    optimizer.step()
                    scheduler.step()
                    progress.batch += 1
                    progress.step += 1
                    seconds = round(time.perf_counter() - begun, 5)
                    if log is not None:
                        log.write(
                            event="step",
                            epoch=epoch,
                            step=progress.step,
                            **record,
                            learning_rate=learning_rate,
                            utterances=total,
                            seconds=seconds,
                        )
                    bar.set_postfix(epoch=epoch, loss=f"{values[0]:.3f}", refresh=False)
                    bar.update()
                    if stop_now:
                        stop.now()
                    if config.save_every and progress.step % config.save_every == 0:
                        save_last()

                probabilities = predict(
                    model,
                    valid_collator,
                    valid_sampler,
                    config=config,
                    device=device,
                    group=group,
                    # Several processes stop together, at the next step.
                    between_batches=stop.check if group.size == 1 else None,
                )
                if log is not None:
                    labels = corpus.valid.labels
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
                    best = metrics.micro_f1 > progress.best_micro_f1
                    if best:
                        progress.best_epoch, progress.best_micro_f1 = epoch, metrics.micro_f1
                        save_checkpoint(
                            layout.best,
                            model,
                            progress=progress,
                            config=config,
                            tokenizer=tokenizer,
                            extra=result,
                        )
                    log.write(event="epoch", step=progress.step, **result)
                    if config.progress:
                        note(f"epoch {epoch}  valid  {metrics}")
                progress.epoch += 1
                progress.batch = 0
                save_last()
            # A signal since the last step's agreement: the processes agree once more.
            if group.mean(torch.zeros(1, device=device), stop.requested)[1]:
                stop.now()
    except StopRequest.Stop as request:
        save_last()
        raise Interrupted(request.signal, run, progress.step, progress.total_steps) from None
    finally:
        bar.close()
        if log is not None:
            log.close()
    if not group.is_main:
        return None

    # The only place that sees the test split. Nothing is chosen from here on.
    checkpoint = load_checkpoint(layout.best, config=config, best=True)
    meta = checkpoint.meta
    results = evaluate_best(run, config, ("valid", "test"), corpus=corpus, device=device)
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
    write_predictions(layout.predictions, results["test"])
    write_reports(run, results, names, predictions=False)
    atomic_write_json(layout.metrics, content)
    print(metrics_table(scores))
    test = results["test"]
    print(label_table(label_figures(test.predictions, test.labels, names)))
    print("valid, with one threshold for all labels")
    print(curve_table(results["valid"].probabilities, results["valid"].labels, names))
    seconds = time.perf_counter() - started
    note(f"best epoch {meta['epoch']} of {config.epochs}; {seconds:.0f} s; run folder: {run}")
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
