"""The optimiser and its schedule, the seeds, and putting all of it back when a run goes on."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from univa.config import TrainConfig
from univa.errors import UserError
from univa.models import UniVA
from univa.runs.checkpoint import Checkpoint, Progress, restore_random_state
from univa.utils.processes import ProcessGroup

__all__ = ["make_optimizer", "restore", "seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed the generators of python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def make_optimizer(
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
        fused=options.fused or None,
    )
    warmup = round(options.warmup_fraction * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def restore(
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
