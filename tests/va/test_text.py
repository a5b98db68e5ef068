import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from univa.errors import UserError
from univa.va.regressor import batches_by_length
from univa.va.text import TextVAScorer

TEXTS = ["a happy day", "a sad, slow, soft, still day", "!", "a lovely fast day day day day day"]


@pytest.fixture
def scorer(tiny_encoder):
    torch.manual_seed(3)
    scorer = TextVAScorer.from_encoder(tiny_encoder, "text", max_tokens=16)
    scorer.offset.copy_(torch.tensor([0.1, -0.2]))
    scorer.scale.copy_(torch.tensor([3.0, 2.0]))
    return scorer


def test_score_is_the_definition_whatever_the_batch(scorer, tiny_encoder):
    encoder = AutoModel.from_pretrained(tiny_encoder).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    expected = []
    with torch.no_grad():
        for text in TEXTS:
            hidden = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]  # [T, H]
            head = hidden.mean(0) @ scorer.head.weight.T + scorer.head.bias
            expected.append(torch.tensor([0.1, -0.2]) + torch.tensor([3.0, 2.0]) * head)
    expected = torch.stack(expected)
    assert float(expected.std(0).min()) > 1e-4  # the texts do differ
    scorer.train()
    for batch_size in (1, 3, 64):
        scores = scorer.score(TEXTS, batch_size=batch_size)
        torch.testing.assert_close(scores, expected.clamp(-1, 1), atol=2e-6, rtol=1e-5)
    assert scorer.training  # score leaves the mode as it was
    assert scorer.score([]).shape == (0, 2)


def test_scores_are_clipped(scorer):
    scorer.offset.copy_(torch.tensor([5.0, -5.0]))
    assert scorer.score(TEXTS).tolist() == [[1.0, -1.0]] * 4


def test_long_texts_are_cut(scorer):
    long = "a happy day " * 30
    assert [len(row) for row in scorer.preprocessor.rows([long, "a"])] == [16, 3]
    scorer.preprocessor.set_max_tokens(20)
    assert len(scorer.preprocessor.rows([long])[0]) == 20
    for bad in (2, 65):
        with pytest.raises(UserError, match=f"max_tokens: {bad} is not between 3 and the 64"):
            scorer.preprocessor.set_max_tokens(bad)


def test_save_and_load(scorer, tmp_path):
    scorer.save_pretrained(tmp_path / "saved")
    loaded = TextVAScorer.from_pretrained(tmp_path / "saved")
    assert not loaded.training
    assert loaded.preprocessor.max_tokens == 16
    assert torch.equal(loaded.score(TEXTS), scorer.score(TEXTS))
    states = scorer.state_dict(), loaded.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_broken_folders(scorer, tmp_path, tiny_encoder):
    with pytest.raises(UserError, match=r"config.json: no such file; give a folder that"):
        TextVAScorer.from_pretrained(tmp_path / "none")
    with pytest.raises(UserError, match=r"config.json: not the config of a text VA scorer"):
        TextVAScorer.from_pretrained(tiny_encoder)

    folder = tmp_path / "saved"
    scorer.save_pretrained(folder)
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config | {"hidden_size": 16}))
    with pytest.raises(UserError, match="files are missing or do not fit each other"):
        TextVAScorer.from_pretrained(folder)
    (folder / "text_encoder" / "config.json").write_text(json.dumps(config))
    assert TextVAScorer.from_pretrained(folder).preprocessor.max_tokens == 16

    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="files are missing or do not fit each other"):
        TextVAScorer.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="files are missing or do not fit each other") as caught:
        TextVAScorer.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_encoder_that_cannot_be_loaded(tmp_path, tiny_encoder):
    with pytest.raises(UserError, match="no text encoder could be loaded") as caught:
        TextVAScorer.from_encoder(tmp_path / "none", "text")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="max_tokens: 99 is not between 3 and the 64 positions"):
        TextVAScorer.from_encoder(tiny_encoder, "text", max_tokens=99)


def test_tokenizer_without_its_files(scorer, tmp_path, tiny_encoder):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_encoder, bare)
    scorer.save_pretrained(tmp_path / "saved")
    for folder in (bare, tmp_path / "saved" / "tokenizer"):
        for path in folder.glob("*token*"):
            path.unlink()
    with pytest.raises(UserError, match="bare: no usable tokenizer"):
        TextVAScorer.from_encoder(bare, "text", max_tokens=16)
    with pytest.raises(UserError, match="saved"):
        TextVAScorer.from_pretrained(tmp_path / "saved")


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), max_size=300),
    batch_size=st.integers(1, 40),
    seed=st.none() | st.integers(0, 100),
)
def test_buckets_hold_each_row_once(lengths, batch_size, seed):
    def batches():
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return list(batches_by_length(lengths, batch_size, generator=generator))

    result = batches()
    assert sorted(i for batch in result for i in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in result)
    assert len(result) == -(-len(lengths) // batch_size)
    assert batches() == result


def test_buckets_save_padding():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 60, (2000,), generator=generator).tolist()
    for seeded in (None, generator):
        batches = batches_by_length(lengths, 32, generator=seeded)
        padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
        assert padded < 1.1 * sum(lengths)
