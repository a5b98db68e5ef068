"""A run of seconds, and what its folder holds."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from univa.config import SyntheticConfig, TrainConfig
from univa.presets import demo


@contextmanager
def one_thread() -> Iterator[None]:
    """The same sums in the same order as in the processes that tests start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def tiny(**changes: Any) -> TrainConfig:
    """The demo preset with a handful of dialogues; `changes` are fields of TrainConfig."""
    config = demo()
    corpus = SyntheticConfig(
        train_dialogues=12, valid_dialogues=4, test_dialogues=4, mean_utterances=4
    )
    config = replace(
        config,
        model=replace(config.model, hidden_size=16, num_heads=2, feedforward_size=32),
        data=replace(config.data, batch_size=12, synthetic=corpus),
        epochs=3,
        device="cpu",
        progress=False,
    )
    return replace(config, **changes)


def write_encoder(folder: Path, words: Sequence[str], positions: int = 40) -> Path:
    """A random text encoder that AutoModel and AutoTokenizer load, with dropout."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    special |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(
        BertConfig(
            vocab_size=len(words),
            intermediate_size=16,
            max_position_embeddings=positions,
            **sizes,
        )
    ).save_pretrained(folder)
    return folder


def options(config: TrainConfig) -> list[str]:
    """The command line that makes `tiny()`."""
    return [
        *("demo", "--model.hidden-size", "16", "--model.num-heads", "2"),
        *("--model.feedforward-size", "32", "--data.batch-size", "12"),
        *("--data.synthetic.train-dialogues", "12", "--data.synthetic.valid-dialogues", "4"),
        *("--data.synthetic.test-dialogues", "4", "--data.synthetic.mean-utterances", "4"),
        *("--epochs", str(config.epochs), "--device", "cpu", "--no-progress"),
        *("--save-every", str(config.save_every), "--run-folder", str(config.run_folder)),
    ]


def read_log(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    lines = (run / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def flatten(item: Any, name: str = "") -> dict[str, Any]:
    """Nested containers as path -> leaf."""
    if isinstance(item, dict | list | tuple):
        pairs = item.items() if isinstance(item, dict) else enumerate(item)
        return {k: v for key, value in pairs for k, v in flatten(value, f"{name}/{key}").items()}
    return {name: item}


def assert_same_run(run: Path, other: Path) -> None:
    """Everything that two runs computed is equal bit for bit."""
    for checkpoint in ("last", "best"):
        ours = load_file(run / "checkpoints" / checkpoint / "model.safetensors")
        theirs = load_file(other / "checkpoints" / checkpoint / "model.safetensors")
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), f"{checkpoint}: {name} differs"
    states = [
        flatten(torch.load(r / "checkpoints" / "last" / "training_state.pt", weights_only=True))
        for r in (run, other)
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        other_value = states[1][name]
        equal = torch.equal if torch.is_tensor(value) else lambda a, b: a == b
        assert equal(value, other_value), f"training state: {name} differs"
    assert read_log(run) == read_log(other)
    for name in ("metrics.json", "predictions.jsonl"):
        assert (run / name).read_bytes() == (other / name).read_bytes()
