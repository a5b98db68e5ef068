"""Fits a valence-arousal regressor of any modality.

univa va fit-text --data emobank.csv --encoder MODEL_FOLDER --output SCORER_FOLDER
univa va fit-audio --data clips.csv --encoder MODEL_FOLDER --output SCORER_FOLDER
univa va fit-vision --data frames.csv --encoder MODEL_FOLDER --output SCORER_FOLDER
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from univa.errors import UserError
from univa.utils.console import note
from univa.utils.console import progress as show_progress
from univa.va.agreement import bootstrap_intervals, concordance, pearson
from univa.va.fit_optim import make_optimizer, regression_loss, warm_up_then_decay
from univa.va.fit_settings import FitSettings
from univa.va.regressor import DIMENSIONS, VARegressor, batches_by_length
from univa.va.table import VASplit

__all__ = ["FitSettings", "agreement", "fit", "regression_loss"]

Figures = dict[str, dict[str, float]]


def fit(
    scorer: VARegressor,
    splits: dict[str, VASplit],
    settings: FitSettings,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Fit in place; the scorer ends with the weights of the best epoch on the dev split.

    Args:
        scorer: a scorer with a new head.
        splits: "train", "dev" and "test". The test split is scored once, after the choice.
        settings: the hyper-parameters.
        progress: draw a progress bar and print a line per epoch.

    Returns:
        Figures that go to `metrics.json`: Pearson's r and CCC per dimension on dev and test, with
        bootstrap intervals on test, the best epoch, every epoch's dev figures, run time in seconds.

    Raises:
        UserError: a file is missing or damaged; valence or arousal of the training split is
            constant; the loss is not finite.
    """
    start = time.perf_counter()
    train = splits["train"]
    scale, offset = torch.std_mean(train.coordinates, dim=0, correction=0)  # [2], [2]
    for name, value in zip(DIMENSIONS, scale.tolist(), strict=True):
        if not value > 0:
            raise UserError(f"the training split has one and the same {name} in every row")
    scorer.scale.copy_(scale)
    scorer.offset.copy_(offset)

    # All files are looked at before the first step.
    rows, dev_rows, _ = (
        scorer.preprocessor.rows(splits[name].items) for name in ("train", "dev", "test")
    )
    lengths = scorer.preprocessor.lengths(rows)
    targets = train.coordinates.to(scorer.device)
    optimizer = make_optimizer(scorer, settings)
    frozen = settings.encoder_learning_rate == 0
    known = _pooled(scorer, rows, settings.batch_size, progress) if frozen else None  # [N, H]
    known_dev = _pooled(scorer, dev_rows, settings.batch_size, progress) if frozen else None
    averaged, judged = None, scorer
    if settings.average:
        averaged = AveragedModel(scorer, avg_fn=_average(settings.average))
        judged = cast(VARegressor, averaged.module)
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warm_up_then_decay(step, steps, settings.warmup)
    )
    order = torch.Generator().manual_seed(settings.seed)

    history: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    bar = show_progress(total=steps, description="fitting", enabled=progress)
    for epoch in range(1, settings.epochs + 1):
        scorer.train()
        total = torch.zeros((), device=scorer.device)
        for batch in batches_by_length(lengths, settings.batch_size, generator=order):
            if known is None:
                predictions = scorer(scorer.on_device([rows[i] for i in batch]))  # [B, 2]
            else:
                predictions = scorer.head_scores(known[batch])
            loss = regression_loss(
                predictions, targets[batch], scorer.scale, settings.concordance_weight
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(scorer.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            if averaged:
                averaged.update_parameters(scorer)
            total += loss.detach() * len(batch)
            bar.update()
        train_loss = float(total) / len(rows)
        if not train_loss < float("inf"):
            bar.close()
            raise UserError(
                f"the loss of epoch {epoch} is {train_loss}; check the encoder's weights or lower "
                "the learning rates"
            )
        if known_dev is None:
            dev = agreement(judged, splits["dev"])
        else:
            with torch.no_grad():
                scores = judged.eval().head_scores(known_dev).clamp(-1, 1).cpu()
            dev = _figures(scores, splits["dev"].coordinates)
        history.append({"epoch": epoch, "train_loss": train_loss, "dev": dev})
        if progress:
            note(f"epoch {epoch}  train loss {train_loss:.4f}  dev {_line(dev)}")
        criterion = sum(dev[name]["pearson"] for name in DIMENSIONS)
        if not best or criterion > best["criterion"]:
            best = {
                "criterion": criterion,
                "epoch": epoch,
                "dev": dev,
                "state": copy.deepcopy(judged.state_dict()),
            }
        elif settings.patience and epoch - best["epoch"] >= settings.patience:
            break
    bar.close()

    scorer.load_state_dict(best["state"])
    scorer.eval()
    scores = scorer.score(splits["test"].items)
    test = _figures(scores, splits["test"].coordinates)
    if progress:
        note(f"best epoch {best['epoch']}  test {_line(test)}")
    return {
        "test": test,
        "intervals": _intervals(scores, splits["test"].coordinates, settings),
        "dev": best["dev"],
        "best_epoch": best["epoch"],
        "rows": {name: len(split) for name, split in splits.items()},
        "seconds": round(time.perf_counter() - start, 1),
        "settings": {**asdict(settings), **scorer.preprocessor.settings()},
        "history": history,
    }


def agreement(scorer: VARegressor, split: VASplit) -> Figures:
    """Pearson's r and CCC per dimension of the scores that users get, in float64."""
    return _figures(scorer.score(split.items), split.coordinates)


def _figures(scores: Tensor, targets: Tensor) -> Figures:
    scores, targets = scores.double(), targets.double()
    r, ccc = pearson(scores, targets).tolist(), concordance(scores, targets).tolist()
    return {name: {"pearson": r[k], "ccc": ccc[k]} for k, name in enumerate(DIMENSIONS)}


def _intervals(scores: Tensor, targets: Tensor, settings: FitSettings) -> dict[str, Any]:
    ends = bootstrap_intervals(
        scores.double(), targets.double(), resamples=settings.resamples, seed=settings.seed
    )
    return {
        name: {coefficient: pairs[k].tolist() for coefficient, pairs in ends.items()}
        for k, name in enumerate(DIMENSIONS)
    }


@torch.no_grad()
def _pooled(scorer: VARegressor, rows: Sequence[Any], batch_size: int, progress: bool) -> Tensor:
    """Pooled states of all rows, without dropout: all that a frozen encoder ever gives. [N, H]."""
    scorer.eval()
    pooled: list[Tensor | None] = [None] * len(rows)
    batches = list(batches_by_length(scorer.preprocessor.lengths(rows), batch_size))
    for batch in show_progress(batches, "encoding", unit="batch", enabled=progress):
        states = scorer.pooled(scorer.on_device([rows[i] for i in batch]))
        for i, state in zip(batch, states, strict=True):
            pooled[i] = state
    return torch.stack([state for state in pooled if state is not None])


def _average(decay: float) -> Any:
    """Exponential average whose decay rises from 0, so that the first weights are forgotten."""

    def average(mean: Tensor, value: Tensor, count: Tensor) -> Tensor:
        number = count.double()  # on the device: no step waits for it
        weight = 1 - ((1 + number) / (10 + number)).clamp(max=decay)
        return torch.lerp(mean, value, weight.to(mean.dtype))

    return average


def _line(figures: Figures) -> str:
    return "  ".join(
        f"{name} r {value['pearson']:.3f} CCC {value['ccc']:.3f}" for name, value in figures.items()
    )
