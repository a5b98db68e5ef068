"""Fits a text valence-arousal scorer.

univa va fit-text --data emobank.csv --encoder MODEL_FOLDER --output SCORER_FOLDER
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from univa.console import note
from univa.console import progress as show_progress
from univa.errors import UserError
from univa.va.agreement import concordance, pearson
from univa.va.table import TextVASplit
from univa.va.text import DIMENSIONS, TextVAScorer, length_buckets

__all__ = ["FitSettings", "agreement", "fit_text", "model_card", "regression_loss"]


@dataclass(kw_only=True)
class FitSettings:
    """How the scorer is fitted."""

    epochs: int = 5
    """Passes over the training split."""
    batch_size: int = 32
    """Sentences per step."""
    encoder_learning_rate: float = 8e-5
    """Highest learning rate of the encoder; 0 freezes it."""
    head_learning_rate: float = 1e-3
    """Highest learning rate of the new linear layer."""
    warmup: float = 0.1
    """Part of the steps over which the learning rates rise from 0; then they fall to 0."""
    weight_decay: float = 0.01
    """AdamW weight decay of matrices; biases and layer norms have none."""
    concordance_weight: float = 0.5
    """Weight of 1 - CCC in the loss; the rest is the squared error of standardised scores."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    max_tokens: int = 64
    """Longer sentences are cut to this many tokens."""
    dropout: float = 0.1
    """Dropout before the linear layer. The encoder keeps its own."""
    seed: int = 1111
    """Seed of initialisation, order and dropout."""

    def __post_init__(self) -> None:
        checks = {
            "epochs": self.epochs >= 1,
            "batch_size": self.batch_size >= 2,
            "encoder_learning_rate": 0 <= self.encoder_learning_rate < 1,
            "head_learning_rate": 0 < self.head_learning_rate < 1,
            "warmup": 0 <= self.warmup <= 1,
            "weight_decay": 0 <= self.weight_decay < 1,
            "concordance_weight": 0 <= self.concordance_weight <= 1,
            "clip": self.clip > 0,
            "max_tokens": self.max_tokens >= 3,
            "dropout": 0 <= self.dropout < 1,
        }
        for name, fine in checks.items():
            if not fine:
                raise UserError(f"{name}: {getattr(self, name)} is out of range; see --help")


def regression_loss(
    predictions: Tensor, targets: Tensor, scale: Tensor, concordance_weight: float
) -> Tensor:
    """Mean over dimensions of a mix of squared error and 1 - CCC.

    Args:
        predictions: [N, 2].
        targets: [N, 2].
        scale: [2], standard deviation of the training targets; squared errors are in its units,
            so that both terms are of order 1.
        concordance_weight: 0 for the squared error alone, 1 for 1 - CCC alone.

    Returns:
        Scalar.
    """
    squared = ((predictions - targets) / scale).square().mean()
    discord = (1 - concordance(predictions, targets)).mean()
    return (1 - concordance_weight) * squared + concordance_weight * discord


def fit_text(
    scorer: TextVAScorer,
    splits: dict[str, TextVASplit],
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
        Figures that go to `metrics.json`: Pearson's r and CCC per dimension on dev and test,
        the best epoch, every epoch's dev figures, run time in seconds.

    Raises:
        UserError: valence or arousal of the training split is constant; the loss is not finite.
    """
    start = time.perf_counter()
    train = splits["train"]
    scale, offset = torch.std_mean(train.coordinates, dim=0, correction=0)  # [2], [2]
    for name, value in zip(DIMENSIONS, scale.tolist(), strict=True):
        if not value > 0:
            raise UserError(f"the training split has one and the same {name} in every row")
    scorer.scale.copy_(scale)
    scorer.offset.copy_(offset)

    rows = scorer.tokenize(train.texts)
    lengths = [len(row) for row in rows]
    targets = train.coordinates.to(scorer.device)
    optimizer = _optimizer(scorer, settings)
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _warm_up_then_decay(step, steps, settings.warmup)
    )
    order = torch.Generator().manual_seed(settings.seed)

    history: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    bar = show_progress(total=steps, description="fitting", enabled=progress)
    for epoch in range(1, settings.epochs + 1):
        scorer.train()
        if settings.encoder_learning_rate == 0:
            scorer.encoder.eval()  # a frozen encoder has no dropout either
        total = torch.zeros((), device=scorer.device)
        for batch in length_buckets(lengths, settings.batch_size, generator=order):
            predictions = scorer(*scorer.pad([rows[i] for i in batch]))  # [B, 2]
            loss = regression_loss(
                predictions, targets[batch], scorer.scale, settings.concordance_weight
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(scorer.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(batch)
            bar.update()
        train_loss = float(total) / len(rows)
        if not train_loss < float("inf"):
            bar.close()
            raise UserError(
                f"the loss of epoch {epoch} is {train_loss}; check the encoder's weights or lower "
                "the learning rates"
            )
        dev = agreement(scorer, splits["dev"])
        history.append({"epoch": epoch, "train_loss": train_loss, "dev": dev})
        if progress:
            note(f"epoch {epoch}  train loss {train_loss:.4f}  dev {_line(dev)}")
        criterion = sum(dev[name]["pearson"] for name in DIMENSIONS)
        if not best or criterion > best["criterion"]:
            best = {
                "criterion": criterion,
                "epoch": epoch,
                "dev": dev,
                "state": copy.deepcopy(scorer.state_dict()),
            }
    bar.close()

    scorer.load_state_dict(best["state"])
    scorer.eval()
    test = agreement(scorer, splits["test"])
    if progress:
        note(f"best epoch {best['epoch']}  test {_line(test)}")
    return {
        "test": test,
        "dev": best["dev"],
        "best_epoch": best["epoch"],
        "rows": {name: len(split) for name, split in splits.items()},
        "seconds": round(time.perf_counter() - start, 1),
        "settings": asdict(settings),
        "history": history,
    }


def agreement(scorer: TextVAScorer, split: TextVASplit) -> dict[str, dict[str, float]]:
    """Pearson's r and CCC per dimension of the scores that users get, in float64."""
    scores, targets = scorer.score(split.texts).double(), split.coordinates.double()
    r, ccc = pearson(scores, targets).tolist(), concordance(scores, targets).tolist()
    return {name: {"pearson": r[k], "ccc": ccc[k]} for k, name in enumerate(DIMENSIONS)}


def _optimizer(scorer: TextVAScorer, settings: FitSettings) -> torch.optim.AdamW:
    scorer.encoder.requires_grad_(settings.encoder_learning_rate > 0)
    groups = []
    for module, rate in (
        (scorer.encoder, settings.encoder_learning_rate),
        (scorer.head, settings.head_learning_rate),
    ):
        parameters = [p for p in module.parameters() if p.requires_grad]
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        groups += [
            {"params": matrices, "lr": rate, "weight_decay": settings.weight_decay},
            {"params": vectors, "lr": rate, "weight_decay": 0.0},
        ]
    return torch.optim.AdamW([group for group in groups if group["params"]])


def _warm_up_then_decay(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate at a step counted from 0; never 0 at a step that is taken."""
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return max(0.0, (steps - step) / max(1, steps - rise))


def _line(figures: dict[str, dict[str, float]]) -> str:
    return "  ".join(
        f"{name} r {value['pearson']:.3f} CCC {value['ccc']:.3f}" for name, value in figures.items()
    )


def model_card(data: str, encoder: str, figures: dict[str, Any]) -> str:
    """The README.md of a saved scorer, in Markdown.

    Args:
        data: name of the table.
        encoder: name of the encoder.
        figures: what `fit_text` returned.
    """
    rows, test = figures["rows"], figures["test"]
    table = "\n".join(
        f"| {name} | {test[name]['pearson']:.3f} | {test[name]['ccc']:.3f} |" for name in DIMENSIONS
    )
    return f"""# Text valence-arousal scorer

Gives valence and arousal of an English sentence or of whatever language the encoder knows, each in
[-1, 1]. Written by `univa va fit-text`; load it with
`univa.va.text.TextVAScorer.from_pretrained(folder).score(texts)`.

Encoder `{encoder}`, mean over tokens, one linear layer. Fitted on `{data}`:
{rows["train"]} training rows, best of {figures["settings"]["epochs"]} epochs chosen on
{rows["dev"]} dev rows by Pearson's r, reported once on {rows["test"]} test rows:

| | Pearson r | CCC |
|---|---|---|
{table}

The licences of the encoder and of the table apply to these weights. Every setting and every
epoch's figures are in `metrics.json`.

```json
{json.dumps(figures["settings"], indent=2)}
```
"""
