"""Sets up a training run: data, model, optimizer, log; and resumes one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from univa.config import TrainConfig
from univa.data import Collator, Corpus, DialogueBatchSampler, UtteranceBatchSampler
from univa.data.build import (
    load_corpus,
    load_tokenizer,
    make_collator,
    make_normalizer,
    make_sampler,
)
from univa.data.lexicon import read_lexicon, similarity_matrix
from univa.data.store.read import check_shards
from univa.evaluation.evaluate import evaluation_sampler
from univa.models import UniVA
from univa.models.authors import start_as_authors
from univa.runs.checkpoint import Checkpoint, Progress, random_state, save_checkpoint
from univa.runs.environment import describe_environment
from univa.runs.layout import RunFolder, load_tokenizer_of
from univa.runs.log import RunLog, tensorboard_writer
from univa.train.objective import Objective
from univa.train.optim import make_optimizer, restore, seed_everything
from univa.utils.files import atomic_write_json, make_folder
from univa.utils.lock import FolderLock
from univa.utils.processes import ProcessGroup

__all__ = ["Run", "set_up"]


@dataclass(kw_only=True)
class Run:
    """A training run as one process holds it.

    Attributes:
        config: the resolved config.
        group: the processes of the run.
        folder: the run folder.
        corpus: its three splits.
        tokenizer: of the text encoder; None without one.
        model: on the device of this process, in training mode.
        objective: model and loss, in DistributedDataParallel with several processes.
        collator: of the training split.
        sampler: batches of this process.
        valid_collator: of the validation split.
        valid_sampler: its batches, in order.
        optimizer: AdamW.
        scheduler: of the learning rates.
        progress: where training stands.
        log: log.jsonl in the process that writes the run folder; None in the others.
    """

    config: TrainConfig
    group: ProcessGroup
    folder: RunFolder
    corpus: Corpus
    tokenizer: Any
    model: UniVA
    objective: nn.Module
    collator: Collator
    sampler: DialogueBatchSampler | UtteranceBatchSampler
    valid_collator: Collator
    valid_sampler: DialogueBatchSampler
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    progress: Progress
    log: RunLog | None

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self.group.device

    def save_last(self) -> None:
        """Save the checkpoint to resume from; all processes call this together."""
        states = self.group.gather(random_state())
        if self.log is not None:
            self.progress.log_bytes = self.log.flush()
            save_checkpoint(
                self.folder.last,
                self.model,
                progress=self.progress,
                config=self.config,
                tokenizer=self.tokenizer,
                state={
                    "optimizer": self.optimizer.state_dict(),
                    "scheduler": self.scheduler.state_dict(),
                    "random": states,
                },
            )
        self.group.wait()


def set_up(
    config: TrainConfig,
    group: ProcessGroup,
    path: Path,
    checkpoint: Checkpoint | None,
    lock: FolderLock,
) -> Run:
    """Load data and model, and make or open the run folder; all processes call this together.

    Args:
        config: the resolved config.
        group: the processes of the run.
        path: the run folder, as `find_run` gives it.
        checkpoint: what to resume from; None begins.
        lock: of the run folder.

    Raises:
        UserError: bad data, an encoder or a checkpoint that cannot be read, or a run folder that
            cannot be written.
    """
    if config.tensorboard:
        tensorboard_writer()  # or a message that it is missing
    # Data and model first: what is wrong with them is found before anything is written.
    corpus = load_corpus(config)
    for split in (corpus.valid, corpus.test):  # they are not read before hours have passed
        check_shards(split)
    valid_sampler = evaluation_sampler(config, corpus.valid.dialogue_lengths)
    seed_everything(config.seed)
    model, tokenizer = _load_model(config, checkpoint)
    model.to(group.device).train()
    collator = make_collator(
        config,
        corpus.train,
        model,
        tokenizer=tokenizer,
        normalizer=make_normalizer(config, corpus.train),
    )
    sampler = make_sampler(config, collator, rank=group.rank, world_size=group.size)
    valid_collator = make_collator(config, corpus.valid, model, tokenizer=tokenizer)

    total_steps = sampler.total_steps(config.epochs, config.optimizer.accumulate)
    progress = Progress(total_steps=total_steps)
    optimizer, scheduler = make_optimizer(config, model, total_steps)
    seed_everything(config.seed + group.rank)  # each process has its own dropout
    if checkpoint is not None:
        progress = restore(checkpoint, progress, optimizer, scheduler, group)
    if config.compile:
        model.compile(dynamic=True)
    objective: nn.Module = Objective(config, model)
    if group.size > 1:
        objective = DistributedDataParallel(
            objective,
            device_ids=[group.device.index] if group.device.type == "cuda" else None,
            # Some pretrained encoders have parameters that their output does not depend on.
            find_unused_parameters=config.uses_tokens,
        )

    folder, log = RunFolder(path), None
    if group.is_main:
        make_folder(path, mend="give another --run-folder")
        lock.take()
        if checkpoint is None:
            config.save(folder.config)
            atomic_write_json(folder.environment, describe_environment(group.device))
        log = RunLog(
            folder.log,
            keep_bytes=progress.log_bytes,
            tensorboard=(path / "tensorboard") if config.tensorboard else None,
            step=progress.step,
        )
    return Run(
        config=config,
        group=group,
        folder=folder,
        corpus=corpus,
        tokenizer=tokenizer,
        model=model,
        objective=objective,
        collator=collator,
        sampler=sampler,
        valid_collator=valid_collator,
        valid_sampler=valid_sampler,
        optimizer=optimizer,
        scheduler=scheduler,
        progress=progress,
        log=log,
    )


def _load_model(config: TrainConfig, checkpoint: Checkpoint | None) -> tuple[UniVA, Any]:
    """The model, new or of a checkpoint, and its tokenizer."""
    if checkpoint is not None:
        tokenizer = load_tokenizer_of(checkpoint.folder, config)
        return UniVA.from_pretrained(checkpoint.folder), tokenizer
    tokenizer = load_tokenizer(str(config.model.text_encoder)) if config.uses_tokens else None
    lexicon = read_lexicon(config.data.lexicon) if config.data.lexicon is not None else None
    matrix = similarity_matrix(config.model.labels, lexicon) if config.model.prior else None
    model = UniVA(config.model, similarity=matrix)
    if config.authors:
        start_as_authors(model.encoders.values())
    return model, tokenizer
