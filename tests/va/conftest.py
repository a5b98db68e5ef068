"""A tiny random encoder and a small table, both made here."""

import csv
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

GOOD = ("happy", "sunny", "lovely", "kind")
BAD = ("sad", "rotten", "lonely", "cruel")
LOUD = ("!", "very", "loud", "fast")
CALM = (".", "slow", "still", "soft")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> Path:
    """A folder that AutoModel and AutoTokenizer load: 2 layers, 32 wide, 64 positions."""
    folder = tmp_path_factory.mktemp("tiny_encoder")
    words = [*SPECIAL, *GOOD, *BAD, *LOUD, *CALM, "day", "a"]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def table(tmp_path) -> Path:
    """A CSV whose words decide valence and arousal; 96 training, 24 dev and 24 test rows."""
    generator = torch.Generator().manual_seed(5)
    path = tmp_path / "table.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "V", "A", "text"])
        for split, rows in (("train", 96), ("dev", 24), ("test", 24)):
            for k in range(rows):
                picks = torch.randint(4, (4,), generator=generator).tolist()
                good, loud = torch.randint(2, (2,), generator=generator).tolist()
                mood = [(GOOD if good else BAD)[i] for i in picks[:2]]
                pace = [(LOUD if loud else CALM)[i] for i in picks[2:]]
                words = ["a", *mood, *pace, *["day"] * (k % 5)]
                writer.writerow([f"{split}{k}", split, 2 + 2 * good, 2.5 + loud, " ".join(words)])
    return path
