import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config

from tests.models.tiny import config, dialogues, tiny_encoder
from univa.errors import UserError
from univa.models.encoder import DialogueEncoder, load_text_encoder, token_limit
from univa.models.univa import UniVA


def test_weights_are_the_folders_and_the_pooler_is_gone(encoder_folder):
    encoder = DialogueEncoder(load_text_encoder(encoder_folder), 8).pretrained
    saved = load_file(encoder_folder / "model.safetensors")
    assert any(name.startswith("pooler.") for name in saved)
    loaded = encoder.state_dict()
    assert set(loaded) == {name for name in saved if not name.startswith("pooler.")}
    assert all(torch.equal(loaded[name], saved[name]) for name in loaded)


def test_half_precision_weights_become_float32(tmp_path):
    folder = tmp_path / "half"
    tiny_encoder().half().save_pretrained(folder)
    assert {p.dtype for p in load_text_encoder(folder).parameters()} == {torch.float32}


@pytest.mark.parametrize(("kind", "limit"), [("roberta", 32), ("bert", 34)])
def test_token_limit_is_what_the_encoder_takes(kind, limit):
    encoder = tiny_encoder(kind).eval()
    assert token_limit(encoder) == limit
    encoder(input_ids=torch.full((1, limit), 7))
    with pytest.raises((IndexError, RuntimeError)):
        encoder(input_ids=torch.full((1, limit + 1), 7))


def test_token_limit_without_position_table():
    assert token_limit(torch.nn.Linear(2, 2)) is None


def test_frozen_encoder_has_no_dropout_and_no_gradients():
    pretrained = tiny_encoder()
    for module in pretrained.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    text = dialogues()
    encoder = DialogueEncoder(pretrained, 8, frozen=True).train()
    first = encoder(text.input_ids, text.attention_mask)
    assert torch.equal(first, encoder(text.input_ids, text.attention_mask))
    first.sum().backward()
    assert encoder.projection.weight.grad is not None
    assert all(part.grad is None for part in pretrained.parameters())

    awake = DialogueEncoder(pretrained.requires_grad_(True), 8).train()
    assert not torch.equal(
        awake(text.input_ids, text.attention_mask), awake(text.input_ids, text.attention_mask)
    )


def test_model_loads_the_folder_it_names(encoder_folder):
    model = UniVA(config(modalities=("text",), text_encoder=str(encoder_folder)))
    saved = load_file(encoder_folder / "model.safetensors")
    own = model.encoders["text"].pretrained.state_dict()
    assert all(torch.equal(own[name], saved[name]) for name in own)
    assert all(module.training for module in model.modules())
    assert {id(p) for p in model.text_encoder_parameters()} == {
        id(p) for p in model.encoders["text"].pretrained.parameters()
    }


def test_bad_encoders_are_named(encoder_folder, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_text_encoder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: cannot load a text encoder"):
        load_text_encoder(tmp_path / "empty")
    T5Config(vocab_size=9).save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="t5 is an encoder-decoder"):
        load_text_encoder(tmp_path / "t5")

    partial = tmp_path / "partial"
    shutil.copytree(encoder_folder, partial)
    weights = load_file(partial / "model.safetensors")
    removed = "encoder.layer.1.output.dense.weight"
    del weights[removed]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"no weights for '{removed}'"):
        load_text_encoder(partial)

    other = tmp_path / "other"
    shutil.copytree(encoder_folder, other)
    text = (other / "config.json").read_text()
    (other / "config.json").write_text(text.replace('"hidden_size": 12', '"hidden_size": 15'))
    with pytest.raises(UserError, match="other: cannot load a text encoder") as caught:
        load_text_encoder(other)
    assert "\n" not in str(caught.value)


def test_real_encoder(minilm):
    model = UniVA(config(modalities=("text",), text_encoder=str(minilm)))
    assert model.max_tokens == 512
    out = model(text=dialogues(pad_token=0))
    assert out.logits.shape == (5, 3)
    assert out.logits.isfinite().all()


def test_damaged_weights_are_one_line(encoder_folder, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(encoder_folder, folder)
    (folder / "model.safetensors").write_bytes(b"junk" * 20)
    with pytest.raises(UserError, match="damaged: cannot load a text encoder: ") as caught:
        load_text_encoder(folder)
    assert "\n" not in str(caught.value)
