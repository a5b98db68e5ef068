"""Small models and inputs with random weights."""

import torch
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from univa.batch import FeatureSequence, TokenizedDialogues
from univa.models import ModelConfig, UniVA


def config(**changes) -> ModelConfig:
    """A configuration of a few thousand parameters."""
    sizes = {
        "labels": ("happy", "sad", "anger"),
        "hidden_size": 16,
        "num_heads": 2,
        "feedforward_size": 24,
        "dropout": 0.0,
        "initializer_range": None,
        "text_dim": 5,
        "audio_dim": 7,
        "vision_dim": 6,
        "text_layers": 1,
        "audio_layers": 2,
        "vision_layers": 1,
        "max_text_length": 9,
        "max_audio_length": 12,
        "max_vision_length": 8,
        "prior": False,
    }
    return ModelConfig(**{**sizes, **changes})


def tiny_encoder(kind: str = "roberta") -> torch.nn.Module:
    """A random text encoder with an embedding of 11 wide and dropout 0."""
    sizes = {
        "vocab_size": 50,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
        "max_position_embeddings": 34,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if kind == "roberta":
        return RobertaModel(RobertaConfig(**sizes, pad_token_id=1, type_vocab_size=1))
    return BertModel(BertConfig(**sizes, pad_token_id=0))


def sequence(batch: int, length: int, width: int, *, seed: int = 0) -> FeatureSequence:
    """Random features, the last row full and the others of random length."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (batch,), generator=draw)
    lengths[-1] = length
    mask = torch.arange(length) < lengths[:, None]
    features = torch.randn(batch, length, width, generator=draw) * mask[..., None]
    return FeatureSequence(features=features, mask=mask)


def dialogues(*, padding: int = 0, pad_token: int = 1) -> TokenizedDialogues:
    """Five utterances out of two dialogues of 14 and 9 tokens."""
    draw = torch.Generator().manual_seed(3)
    ids = torch.full((2, 14 + padding), pad_token)
    ids[0, :14] = torch.randint(5, 50, (14,), generator=draw)
    ids[1, :9] = torch.randint(5, 50, (9,), generator=draw)
    attention = torch.zeros_like(ids)
    attention[0, :14], attention[1, :9] = 1, 1
    row = torch.tensor([0, 0, 1, 0, 1])
    spans = [(1, 4), (4, 9), (1, 2), (9, 14), (2, 8)]
    mask = torch.zeros(5, 14 + padding, dtype=torch.bool)
    for utterance, (start, end) in enumerate(spans):
        mask[utterance, start:end] = True
    return TokenizedDialogues(
        input_ids=ids, attention_mask=attention, dialogue_index=row, utterance_mask=mask
    )


def model_with_encoder(kind: str = "roberta", **changes) -> UniVA:
    """A model whose text goes through a tiny random encoder."""
    torch.manual_seed(11)
    return UniVA(config(text_encoder=f"tiny-{kind}", **changes), text_encoder=tiny_encoder(kind))
