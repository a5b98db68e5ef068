"""Train UniVA.

    univa train demo                                             # one process, CPU or GPU
    python -m univa.train mosei-text --data FOLDER --va-file VA.json
    torchrun --nproc-per-node 2 -m univa.train demo              # two processes, gloo or NCCL
    univa train demo --device cpu --epochs 1 --data.synthetic.train-dialogues 8   # seconds
    univa train --resume runs/demo-20250131-120000               # go on where it stopped

The run folder holds

    config.json         the resolved config
    log.jsonl           one object per step and per epoch
    checkpoints/best    the epoch with the best validation micro-F1
    checkpoints/last    where `--resume` goes on, bit for bit
    predictions.jsonl   what the best epoch says about each test utterance
    metrics.json        validation and test at the thresholds of the best epoch; written last
"""

from __future__ import annotations

import math
import random
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from univa.batch import Batch
from univa.checkpoint import (
    Checkpoint,
    Progress,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from univa.config import TrainConfig
from univa.data import DialogueBatchSampler, VANormalizer
from univa.errors import UserError
from univa.evaluate import evaluate_best, evaluation_sampler, metrics_table, predict
from univa.files import atomic_write_json, make_folder
from univa.inputs import load_corpus, load_tokenizer, make_collator
from univa.metrics import choose_thresholds_on_validation, compute_metrics, decide
from univa.models import UniVA
from univa.processes import Interrupted, ProcessGroup, StopRequest, cpu_threads
from univa.runs import RunLog, find_run, write_predictions
from univa.va.lexicon import similarity_matrix
from univa_kernels import UniVALoss, UniVALossOutput

__all__ = ["Objective", "train"]


class Objective(nn.Module):
    """Model and loss in one: DistributedDataParallel has to see every use of a parameter.

    Args:
        config: the run.
        model: the model of that config.
    """

    def __init__(self, config: TrainConfig, model: UniVA) -> None:
        super().__init__()
        self.model = model
        self.autocast = config.precision == "bfloat16"
        self.loss = UniVALoss(
            temperature=config.loss.temperature,
            radius=config.loss.radius,
            alpha=config.loss.alpha,
            modality_weights=config.loss.modality_weights,
            classification=config.loss.classification,
            prior=config.loss.prior,
            self_weight=config.loss.self_weight,
            no_positives=config.loss.no_positives,
            normalize=config.loss.normalize,
        )

    def forward(self, batch: Batch) -> UniVALossOutput:
        """The UniVA objective of a batch, in float32, and its terms."""
        with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.model(**batch.inputs)
        return self.loss(
            output.logits.float(),
            batch.labels,
            {name: value.float() for name, value in output.embeddings.items()},
            batch.coordinates,
            output.similarity,
        )


def train(config: TrainConfig) -> dict[str, Any] | None:
    """Train, choose the best epoch and the thresholds on validation, then score the test split.

    Args:
        config: the run. Under torchrun every process calls this with the same config.

    Returns:
        The content of `metrics.json`; None in the processes that do not write the run folder.

    Raises:
        UserError: bad input, a run folder that is in use, a checkpoint of another config, or a
            loss that is not finite.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    group = ProcessGroup.start(config.device)
    try:
        with cpu_threads(config.threads):
            return _train(config.resolved(), group)
    finally:
        group.stop()


def _train(config: TrainConfig, group: ProcessGroup) -> dict[str, Any] | None:
    started = time.perf_counter()
    run, checkpoint = find_run(config)
    device, names = group.device, config.model.labels

    # Data and model first: what is wrong with them is found before anything is written.
    corpus = load_corpus(config)
    sampler = DialogueBatchSampler(
        corpus.train.dialogue_lengths,
        batch_size=config.data.batch_size,
        seed=config.seed,
        rank=group.rank,
        world_size=group.size,
    )
    valid_sampler = evaluation_sampler(config, corpus.valid.dialogue_lengths)
    _seed_everything(config.seed)
    if checkpoint is None:
        tokenizer = load_tokenizer(str(config.model.text_encoder)) if config.uses_tokens else None
        matrix = similarity_matrix(names) if config.model.prior else None
        model = UniVA(config.model, similarity=matrix)
    else:
        kept = checkpoint.folder / "text_encoder"
        tokenizer = load_tokenizer(kept) if config.uses_tokens else None
        model = UniVA.from_pretrained(checkpoint.folder)
    model.to(device).train()
    normalizer = VANormalizer.fit(corpus.train, authors=config.data.authors_normalization)
    collator = make_collator(
        config, corpus.train, model, tokenizer=tokenizer, normalizer=normalizer
    )
    valid_collator = make_collator(config, corpus.valid, model, tokenizer=tokenizer)

    progress = Progress(total_steps=sampler.total_batches(config.epochs))
    optimizer, scheduler = _make_optimizer(config, model, progress.total_steps)
    _seed_everything(config.seed + group.rank)  # each process has its own dropout
    if checkpoint is not None:
        progress = _restore(checkpoint, progress, optimizer, scheduler, group)
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
        if checkpoint is None:
            config.save(run / "config.json")
        log = RunLog(run / "log.jsonl", keep_bytes=progress.log_bytes)

    def save_last() -> None:
        states = group.gather(random_state())
        if log is not None:
            progress.log_bytes = log.size
            save_checkpoint(
                run / "checkpoints" / "last",
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

    bar = tqdm(
        total=progress.total_steps,
        initial=progress.step,
        unit="step",
        disable=not (group.is_main and config.progress),
    )
    try:
        with StopRequest() as stop:
            while progress.epoch < config.epochs:
                epoch = progress.epoch + 1
                for indices in sampler.batches(progress.epoch)[progress.batch :]:
                    begun = time.perf_counter()
                    batch = collator(indices).to(device)
                    terms = objective(batch)
                    optimizer.zero_grad(set_to_none=True)
                    terms.total.backward()
                    norm = nn.utils.clip_grad_norm_(
                        model.parameters(), config.optimizer.clip_norm or math.inf
                    )
                    # One transfer for all that is logged. The processes agree here on stopping.
                    named = _named_terms(terms, norm)
                    values, stop_now = group.mean(torch.stack([*named.values()]), stop.requested)
                    record = dict(zip(named, values, strict=True))
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
                            utterances=len(batch),
                            seconds=seconds,
                        )
                    bar.set_postfix(epoch=epoch, loss=f"{values[0]:.3f}", refresh=False)
                    bar.update()
                    if stop_now:
                        stop.now()
                    if config.save_every and progress.step % config.save_every == 0:
                        save_last()

                if log is not None:
                    probabilities = predict(
                        model,
                        valid_collator,
                        valid_sampler,
                        config=config,
                        device=device,
                        # Several processes stop together, at the next step.
                        between_batches=stop.check if group.size == 1 else None,
                    )
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
                            run / "checkpoints" / "best",
                            model,
                            progress=progress,
                            config=config,
                            tokenizer=tokenizer,
                            extra=result,
                        )
                    log.write(event="epoch", step=progress.step, **result)
                    if config.progress:
                        table = metrics_table({f"epoch {epoch} valid": metrics}).splitlines()
                        bar.write("\n".join(table if epoch == 1 else table[1:]))
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
    meta = load_checkpoint(run / "checkpoints" / "best", config=config, best=True).meta
    results = evaluate_best(run, config, ("valid", "test"), corpus=corpus, device=device)
    scores = {name: result.metrics for name, result in results.items()}
    content = {
        "preset": config.preset,
        "seed": config.seed,
        "best_epoch": meta["epoch"],
        "thresholds": meta["thresholds"],
        **{name: metrics.to_dict() for name, metrics in scores.items()},
    }
    write_predictions(run / "predictions.jsonl", results["test"])
    atomic_write_json(run / "metrics.json", content)
    print(metrics_table(scores))
    seconds = time.perf_counter() - started
    print(f"best epoch {meta['epoch']} of {config.epochs}; {seconds:.0f} s; run folder: {run}")
    return content


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def _make_optimizer(
    config: TrainConfig, model: UniVA, total_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, the text encoder at its own rate; warm-up from 0, then linear decay to 0."""
    options = config.optimizer
    encoder = model.text_encoder_parameters()
    known = {id(parameter) for parameter in encoder}
    own = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups: list[dict[str, Any]] = [{"params": own}]
    if encoder:
        encoder_rate = options.text_encoder_learning_rate or options.learning_rate
        groups.append({"params": encoder, "lr": encoder_rate})
    optimizer = torch.optim.AdamW(
        groups,
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        weight_decay=options.weight_decay,
    )
    warmup = round(options.warmup_fraction * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _restore(
    checkpoint: Checkpoint,
    fresh: Progress,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    group: ProcessGroup,
) -> Progress:
    """Put everything but the weights back to where the checkpoint was."""
    state, progress = checkpoint.state, checkpoint.progress
    if state is None:
        raise UserError(f"{checkpoint.folder}: no training state here to go on from")
    if len(state["random"]) != group.size:
        size, run = len(state["random"]), checkpoint.folder.parents[1]
        raise UserError(
            f"{checkpoint.folder}: the run has {size} processes, not {group.size}; go on with: "
            f"torchrun --nproc-per-node {size} -m univa.train --resume {run}"
        )
    if progress.total_steps != fresh.total_steps:
        raise UserError(
            f"{checkpoint.folder}: the run has {progress.total_steps} steps but its data now gives "
            f"{fresh.total_steps}; bring the data back to what it was, or start a new run"
        )
    try:
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        restore_random_state(state["random"][group.rank])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{checkpoint.folder / 'training_state.pt'}: not the state of this model "
            f"({type(error).__name__}: {error}); start the run anew"
        ) from error
    return progress


def _named_terms(terms: UniVALossOutput, norm: Tensor) -> dict[str, Tensor]:
    named = {"loss": terms.total, "classification": terms.classification, "prior": terms.prior}
    named |= {f"contrastive_{name}": value for name, value in terms.contrastive.items()}
    return {name: value.detach().float() for name, value in named.items()} | {"grad_norm": norm}


def _not_finite(record: dict[str, float], epoch: int, step: int, batch: Batch) -> UserError:
    values = ", ".join(f"{name} {value:.4g}" for name, value in record.items())
    return UserError(
        f"step {step} (epoch {epoch}, utterances {batch.utterance_ids[0]} to "
        f"{batch.utterance_ids[-1]}): the loss or its gradient is not finite ({values}); lower "
        "--optimizer.learning-rate or raise --loss.temperature"
    )


if __name__ == "__main__":
    import sys

    from univa.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
