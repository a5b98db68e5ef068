"""Options that a run would not read: refused where they are given, rather than ignored."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

from univa.batch import MODALITIES
from univa.config import TrainConfig
from univa.errors import UserError

__all__ = ["refuse_unread", "unread_fields"]

_SHORT = {
    "model.text_encoder": "text-encoder",
    "data.folder": "data",
    "data.lexicon": "lexicon",
    "data.va_file": "va-file",
}


def unread_fields(config: TrainConfig) -> dict[str, str]:
    """Fields of a config that nothing looks at.

    Args:
        config: a run.

    Returns:
        name of a field or, ending in ".", of a section -> why.
    """
    model, data, loss = config.model, config.data, config.loss
    vectors = [name for name in model.modalities if not (name == "text" and config.uses_tokens)]
    found: dict[str, str] = {}

    def unread(why: str, names: Iterable[str]) -> None:
        for name in names:
            found.setdefault(name, why)

    for name in MODALITIES:
        parts = (f"model.{name}_dim", f"model.{name}_layers", f"model.max_{name}_length")
        if name not in model.modalities:
            why = f"{name} is none of --model.modalities"
            unread(why, (*parts, f"loss.{name}_weight"))
            if name == "text":
                unread(why, ("model.text_encoder", "model.freeze_text_encoder"))
        elif name not in vectors:
            unread("a text encoder reads the text", parts)
    if not any(model.num_layers(name) for name in vectors):
        names = ("num_heads", "feedforward_size", "layer_norm_eps")
        unread("there is no transformer layer of our own", (f"model.{name}" for name in names))
    if not config.uses_tokens:
        names = ("data.max_tokens", "data.batch_tokens", "data.context")
        unread("no text encoder reads the text", names)
        unread(
            "no text encoder reads the text",
            ("model.freeze_text_encoder", "optimizer.text_encoder_learning_rate"),
        )
        if data.source == "authors":
            unread("the file of each modality has scores of its own", ("data.va_file",))
    if data.source == "store":
        unread("the store has scores of its own", ("data.va_file",))
    if not model.prior:
        unread("there is no correlation prior that needs it", ("data.lexicon",))
    if data.source == "vectors" and "text" not in model.modalities:
        unread("it has scores of text", ("data.va_file",))
    if model.freeze_text_encoder:
        unread("the text encoder is frozen", ("optimizer.text_encoder_learning_rate",))
    if data.sampler == "utterances":
        unread(
            "single utterances are drawn by --data.batch-size alone",
            ("data.batch_tokens",),
        )
    if data.padding == "full":
        unread("--data.padding full makes one group of all", ("data.buckets",))
    if not vectors:
        unread("there are no sequences of features", ("data.buckets",))
    if data.source != "synthetic":
        unread(f"the data source is {data.source!r}", ("data.synthetic.",))
    if data.source != "vectors":
        unread(f"the data source {data.source!r} has a validation split", ("data.valid_fraction",))
    if loss.self_weight > 0:
        why = "the self pair, of weight --loss.self-weight, is a positive of every utterance"
        unread(why, ("loss.no_positives",))
    search = config.threshold.search
    if search != "fixed":
        unread(f"the threshold is searched ({search})", ("threshold.value",))
    if search in ("fixed", "either-or"):
        unread(f"--threshold.search is {search}", ("threshold.objective",))
    return found


def refuse_unread(config: TrainConfig, default: TrainConfig) -> None:
    """Refuse what was given and would not be read.

    Args:
        config: what the options make.
        default: what they started from, a preset or the config of a run.

    Raises:
        UserError: naming the first such option.
    """
    reasons = unread_fields(config)
    sections = {name: why for name, why in reasons.items() if name.endswith(".")}
    for name, why in sections.items():
        own = type(attrgetter(name[:-1])(config)).__dataclass_fields__
        reasons |= {f"{name}{field}": why for field in own}
        del reasons[name]
    for name, why in reasons.items():
        value = attrgetter(name)(config)
        if value != attrgetter(name)(default):
            option, said = f"--{_SHORT.get(name, name)}".replace("_", "-"), f": {value}"
            if isinstance(value, bool):
                section, _, field = option.rpartition(".")
                option, said = (option if value else f"{section}.no-{field}"), ""
            raise UserError(f"{option}{said} would not be read, {why}; drop {option}")
    if config.resume is not None and config.run_folder != default.run_folder:
        given, resumed = Path(str(config.run_folder)), Path(config.resume)
        if given.resolve() != resumed.resolve():
            raise UserError(
                f"--run-folder: {given} would not be read, the run goes on in {resumed}; drop "
                "--run-folder"
            )
