import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertTokenizerFast

from tests.models.tiny import config, dialogues, model_with_encoder, sequence
from univa.errors import UserError
from univa.models import UniVA

FILES = ["README.md", "config.json", "model.safetensors"]


def inputs(text=None):
    return {
        "text": text or sequence(4, 9, 5, seed=1),
        "audio": sequence(5 if text else 4, 12, 7, seed=2),
        "vision": sequence(5 if text else 4, 8, 6, seed=3),
    }


def same(left, right):
    ours, theirs = left.state_dict(), right.state_dict()
    assert list(ours) == list(theirs)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_round_trip_is_bit_exact(tmp_path):
    torch.manual_seed(1)
    model = UniVA(config(prior=True, dropout=0.3), similarity=torch.randn(3, 3))
    model.save_pretrained(tmp_path / "model", extra_metadata={"epoch": "3"})
    loaded = UniVA.from_pretrained(tmp_path / "model")
    assert same(model, loaded)
    assert loaded.config == model.config
    assert not loaded.training
    given = inputs()
    assert torch.equal(loaded(**given).logits, model.eval()(**given).logits)
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert file.metadata()["epoch"] == "3"


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_round_trip_needs_no_encoder_folder(tmp_path, kind, monkeypatch):
    model = model_with_encoder(kind)  # its text_encoder names a folder that never existed
    model.save_pretrained(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = UniVA.from_pretrained(tmp_path)
    assert same(model, loaded)
    assert loaded.config == model.config
    assert loaded.max_tokens == model.max_tokens
    given = inputs(dialogues())
    assert torch.equal(loaded(**given).logits, model.eval()(**given).logits)


def test_tokenizer_is_kept(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    model_with_encoder("bert").save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    kept = AutoTokenizer.from_pretrained(tmp_path / "model" / "text_encoder")
    assert kept("good bad")["input_ids"] == tokenizer("good bad")["input_ids"]


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "meta.json").write_text("{}")
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = UniVA(config())
        model.save_pretrained(tmp_path)
    assert same(model, UniVA.from_pretrained(tmp_path))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted([*FILES, "meta.json"])


def test_failed_saving_leaves_the_old_model(tmp_path, monkeypatch):
    torch.manual_seed(1)
    old = UniVA(config())
    old.save_pretrained(tmp_path)

    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("univa.models.serialization.save_file", fail)
    with pytest.raises(UserError, match=r"cannot write the model: .*No space left"):
        UniVA(config()).save_pretrained(tmp_path)
    assert same(old, UniVA.from_pretrained(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        UniVA(config()).save_pretrained(tmp_path / "file")


def test_tied_tensors_are_written(tmp_path):
    model = UniVA(config(modalities=("audio",)))
    layers = model.encoders["audio"].layers
    layers[1].expand.weight = layers[0].expand.weight
    model.save_pretrained(tmp_path)
    loaded = UniVA.from_pretrained(tmp_path).encoders["audio"].layers
    assert torch.equal(loaded[1].expand.weight, layers[0].expand.weight)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 32}, "is .*16.*, the config asks for .*32.*; it was made with another"),
        (
            {"labels": ["a", "b"]},
            r"'classifier.weight' is \[3, 48\], the config asks for \[2, 48\]",
        ),
        ({"prior": True}, "no 'similarity' in this checkpoint; it was made with another config"),
        ({"audio_layers": 3}, "no 'encoders.audio.layers.2.attention"),
        ({"audio_layers": 1}, "the config has no place for 'encoders.audio.layers.1.attention"),
        ({"modalities": ["text", "audio"]}, "classifier.weight"),
    ],
)
def test_checkpoint_of_another_config(tmp_path, changes, message):
    UniVA(config()).save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as caught:
        UniVA.from_pretrained(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "model.safetensors"))
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match=r"config.json: cannot read the model configuration"):
        UniVA.from_pretrained(tmp_path / "nowhere")

    folder = tmp_path / "model"
    model_with_encoder("bert").save_pretrained(folder)
    (folder / "text_encoder" / "config.json").rename(folder / "aside")
    with pytest.raises(UserError, match="text_encoder: cannot load a text encoder"):
        UniVA.from_pretrained(folder)
    (folder / "text_encoder").rmdir()
    with pytest.raises(UserError, match="text_encoder: the text encoder's configuration is miss"):
        UniVA.from_pretrained(folder)

    folder = tmp_path / "features"
    UniVA(config()).save_pretrained(folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"model.safetensors: cannot read the weights"):
        UniVA.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"model.safetensors: cannot read the weights"):
        UniVA.from_pretrained(folder)


def test_nothing_is_filled_when_a_key_is_wrong(tmp_path):
    from univa.models.serialization import load_weights

    model, other = UniVA(config()), UniVA(config())
    state = {name: part.clone() for name, part in other.state_dict().items()}
    state["surplus"] = torch.zeros(1)
    save_file(state, tmp_path / "w.safetensors")
    before = {name: part.clone() for name, part in model.state_dict().items()}
    with pytest.raises(UserError, match="no place for 'surplus'"):
        load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(before[name], part) for name, part in model.state_dict().items())
    assert "surplus" in load_file(tmp_path / "w.safetensors")
