"""The one switch `authors`: everything as the code of the UniVA authors does it.

What it sets is `SETTINGS`, an option each. Beside these it makes the layers of an encoder start
equal (`univa.models.authors.start_as_authors`), and counts the constant log 2 that two equal
views add to a contrastive term (`univa.train.objective`). What is so without the switch too: the
pooler of the text encoder, frozen there, is no part of the model; a label set predicted empty for
an utterance without labels scores 0 in the accuracy.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from univa.errors import UserError

if TYPE_CHECKING:
    from univa.config import TrainConfig

__all__ = ["SETTINGS", "as_authors", "check_authors"]

# field -> values of the authors' code; the first one is set where the config has another.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "precision": ("float32",),
    # Normalisation by the valence column, long dialogues shortened, token rows padded with 0.
    "data.authors": (True,),
    "data.sampler": ("utterances",),
    "data.padding": ("full",),
    "data.batch_tokens": (0,),
    "data.context": (True,),
    "loss.classification": ("kl",),
    "loss.prior": ("norm", None),
    "loss.self_weight": (0.5,),  # two equal views
    "loss.normalize": (False,),
    "loss.gather": (False,),
    "model.initializer_range": (None,),  # PyTorch's own initial values
    "model.freeze_text_encoder": (False,),
    "threshold.search": ("fixed",),
    "threshold.value": (0.18,),
}
_WITH_TOKENS: dict[str, tuple[Any, ...]] = {"data.max_tokens": (512,)}


def _settings(config: TrainConfig) -> dict[str, tuple[Any, ...]]:
    return SETTINGS | (_WITH_TOKENS if config.uses_tokens else {})


def as_authors(config: TrainConfig) -> TrainConfig:
    """The same run with the switch on and every setting of it.

    Args:
        config: a run, such as the preset `mosei_roberta()`; its sizes, rates and weights stay.
    """
    changed: dict[str, dict[str, Any]] = {}
    for name, values in _settings(config).items():
        section, _, field = name.rpartition(".")
        if attrgetter(name)(config) not in values:
            changed.setdefault(section, {})[field] = values[0]
    top = changed.pop("", {})
    sections = {name: replace(getattr(config, name), **new) for name, new in changed.items()}
    return replace(config, authors=True, **top, **sections)


def check_authors(config: TrainConfig) -> None:
    """UserError where a config has the switch on and a setting that is not the authors'."""
    for name, values in _settings(config).items():
        found = attrgetter(name)(config)
        if found not in values:
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{option}: {found!r} does not go with --authors, whose value is {values[0]!r}; "
                f"drop {option} or --authors"
            )
