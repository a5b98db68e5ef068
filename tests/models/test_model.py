import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.models.determined import determined, undetermined
from tests.models.tiny import config, dialogues, model_with_encoder, sequence
from univa.batch import MODALITIES, FeatureSequence, TokenizedDialogues
from univa.models import UniVA

SUBSETS = [
    subset for size in (1, 2, 3) for subset in itertools.combinations(MODALITIES, size)
]  # fmt: skip


def inputs(batch=5):
    return {
        "text": sequence(batch, 9, 5, seed=1),
        "audio": sequence(batch, 12, 7, seed=2),
        "vision": sequence(batch, 8, 6, seed=3),
    }


@pytest.mark.parametrize("subset", SUBSETS)
def test_any_subset_of_modalities(subset):
    torch.manual_seed(0)
    model = UniVA(config(modalities=subset))
    everything = inputs()
    output = model(**{name: everything[name] for name in subset})
    assert output.logits.shape == (5, 3)
    assert list(output.embeddings) == list(subset)
    assert all(e.shape == (5, 16) for e in output.embeddings.values())
    assert output.similarity is None
    # The classifier sees the embeddings side by side, in the order text, audio, vision.
    joint = torch.cat([output.embeddings[name] for name in subset], 1)
    torch.testing.assert_close(output.logits, model.classifier(joint))
    # What the model does not have, it does not look at.
    assert torch.equal(model(**everything).logits, output.logits)
    output.logits.square().sum().backward()
    unused = [name for name, part in model.named_parameters() if part.grad is None]
    assert unused == []


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("subset", [("text",), MODALITIES])
def test_text_through_an_encoder(kind, subset):
    model = model_with_encoder(kind, modalities=subset)
    given = {**inputs(), "text": dialogues()}
    output = model(**{name: given[name] for name in subset})
    assert output.logits.shape == (5, 3)
    output.logits.square().sum().backward()
    assert [name for name, part in model.named_parameters() if part.grad is None] == []


def padded(value: FeatureSequence, steps: int) -> FeatureSequence:
    batch, _, width = value.features.shape
    return FeatureSequence(
        features=torch.cat([value.features, torch.zeros(batch, steps, width)], 1),
        mask=torch.cat([value.mask, torch.zeros(batch, steps, dtype=torch.bool)], 1),
    )


def test_padding_changes_nothing():
    torch.manual_seed(0)
    model = UniVA(config(max_text_length=20, max_audio_length=20, max_vision_length=20))
    given = inputs()
    plain = model(**given)
    more = model(**{name: padded(value, 5) for name, value in given.items()})
    torch.testing.assert_close(more.logits, plain.logits, rtol=1e-6, atol=1e-6)
    # Nor does what the padding holds.
    noisy = {
        name: replace(value, features=value.features.where(value.mask[..., None], 1e3))
        for name, value in given.items()
    }
    torch.testing.assert_close(model(**noisy).logits, plain.logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "pad"), [("bert", 0), ("roberta", 1)])
def test_padding_of_dialogues_changes_nothing(kind, pad):
    model = model_with_encoder(kind, modalities=("text",))
    plain = model(text=dialogues(pad_token=pad)).logits
    more = model(text=dialogues(pad_token=pad, padding=18)).logits
    torch.testing.assert_close(more, plain, rtol=1e-6, atol=1e-6)


def test_a_batch_is_its_utterances_one_by_one():
    torch.manual_seed(0)
    model = UniVA(config())
    given = inputs()
    together = model(**given).logits
    for i in range(5):
        alone = {
            name: FeatureSequence(
                features=value.features[i : i + 1, : int(value.mask[i].sum())],
                mask=value.mask[i : i + 1, : int(value.mask[i].sum())],
            )
            for name, value in given.items()
        }
        torch.testing.assert_close(model(**alone).logits[0], together[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "pad"), [("bert", 0), ("roberta", 1)])
def test_sharing_a_row_equals_encoding_per_utterance(kind, pad):
    model = model_with_encoder(kind, modalities=("text",))
    shared = dialogues(pad_token=pad)
    repeated = TokenizedDialogues(
        input_ids=shared.input_ids[shared.dialogue_index],
        attention_mask=shared.attention_mask[shared.dialogue_index],
        dialogue_index=torch.arange(5),
        utterance_mask=shared.utterance_mask,
    )
    gradients = []
    logits = []
    for text in (shared, repeated):
        model.zero_grad()
        logits.append(model(text=text).logits)
        logits[-1].square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_each_row_is_encoded_once():
    model = model_with_encoder(modalities=("text",))
    seen = []
    model.encoders["text"].pretrained.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs["input_ids"].shape),
        with_kwargs=True,
    )
    model(text=dialogues())
    assert seen == [(2, 14)]


def test_context_reaches_the_utterance():
    model = model_with_encoder(modalities=("text",))
    text = dialogues()
    ids = text.input_ids.clone()
    ids[0, 13] = 5 + (ids[0, 13] - 4) % 45  # a token of utterance 3, in the row of 0, 1 and 3
    before, after = model(text=text).logits, model(text=replace(text, input_ids=ids)).logits
    changed = (before != after).any(1)
    assert changed.tolist() == [True, True, False, True, False]


def test_similarity_is_a_copy_that_learns():
    given = torch.eye(3, dtype=torch.float64)
    model = UniVA(config(prior=True), similarity=given)
    output = model(**inputs())
    assert output.similarity is model.similarity
    assert isinstance(output.similarity, torch.nn.Parameter)
    assert output.similarity.dtype == torch.float32
    with torch.no_grad():
        model.similarity += 1
    assert torch.equal(given, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("prior", "similarity", "message"),
    [
        (True, None, "similarity is missing: prior=True needs the initial matrix"),
        (True, torch.eye(4), r"similarity must be \[3, 3\] for 3 labels, got \[4, 4\]"),
        (False, torch.eye(3), "similarity is given, but the configuration has prior=False"),
    ],
)
def test_bad_similarity(prior, similarity, message):
    with pytest.raises(ValueError, match=message):
        UniVA(config(prior=prior), similarity=similarity)


def test_encoder_without_place():
    encoder = torch.nn.Linear(2, 2)
    for changes in ({}, {"text_encoder": "some", "modalities": ("audio",)}):
        with pytest.raises(ValueError, match="text_encoder is given"):
            UniVA(config(**changes), text_encoder=encoder)


@pytest.mark.parametrize("spread", [0.02, 0.3, None])
def test_initial_values(spread):
    torch.manual_seed(0)
    model = UniVA(config(hidden_size=64, feedforward_size=128, initializer_range=spread))
    encoder = model.encoders["audio"]
    weight = encoder.layers[0].expand.weight
    wanted = 1 / math.sqrt(3 * 64) if spread is None else spread
    assert weight.std().item() == pytest.approx(wanted, rel=0.1)
    positions = encoder.position_embeddings.weight
    assert positions.std().item() == pytest.approx(1.0 if spread is None else spread, rel=0.1)
    assert model.poolings["audio"].query.std().item() == pytest.approx(1.0, rel=0.3)


def test_initial_values_leave_the_encoder_alone():
    model = model_with_encoder(initializer_range=0.5)
    weight = model.encoders["text"].pretrained.encoder.layer[0].output.dense.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert model.encoders["text"].projection.weight.std().item() == pytest.approx(0.5, rel=0.2)


def test_bf16_autocast_is_close():
    model = model_with_encoder()
    given = {**inputs(), "text": dialogues()}
    exact = model(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(**given)
    for name in MODALITIES:
        error = (rough.embeddings[name].float() - exact.embeddings[name]).norm()
        assert 0 < error < 0.03 * exact.embeddings[name].norm()


def changed(name, **changes):
    given = inputs()
    return {**given, name: replace(given[name], **changes)}


BAD_SEQUENCES = {
    "absent": (
        {"audio": sequence(5, 12, 7), "text": sequence(5, 9, 5)},
        "vision is missing; the model sees text, audio, vision",
    ),
    "long": (
        {**inputs(), "vision": sequence(5, 9, 6)},
        "vision.features has 9 steps, the configuration's max_vision_length is 8",
    ),
    "wide": (
        {**inputs(), "audio": sequence(5, 12, 8)},
        "audio.features has 8 values per step, the configuration's audio_dim is 7",
    ),
    "flat": (changed("text", features=torch.zeros(5, 9)), "text.features must be floating-point"),
    "whole": (
        changed("text", features=torch.zeros(5, 9, 5, dtype=torch.int64)),
        "text.features must be floating-point",
    ),
    "mask shape": (
        changed("audio", mask=torch.ones(5, 11, dtype=torch.bool)),
        r"audio.mask must be \[5, 12\] bool, got \[5, 11\] bool",
    ),
    "mask dtype": (
        changed("audio", mask=torch.ones(5, 12)),
        r"audio.mask must be \[5, 12\] bool, got \[5, 12\] float32",
    ),
    "empty row": (
        changed("audio", mask=torch.arange(5)[:, None].expand(5, 12) != 3),
        "audio.mask is all False in row 3",
    ),
    "no steps": (
        {**inputs(), "audio": sequence(5, 12, 7).__class__(
            features=torch.zeros(5, 0, 7), mask=torch.zeros(5, 0, dtype=torch.bool)
        )},
        "audio.mask is all False in row 0",
    ),
    "batch": (
        {**inputs(), "vision": sequence(4, 8, 6)},
        "vision holds 4 utterances, text holds 5",
    ),
    "kind": ({**inputs(), "text": dialogues()}, "text must be a FeatureSequence"),
    "tensor": ({**inputs(), "text": torch.zeros(5, 9, 5)}, "text must be a FeatureSequence"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SEQUENCES)
def test_bad_sequences_are_named(case):
    given, message = BAD_SEQUENCES[case]
    with pytest.raises(ValueError, match=message):
        UniVA(config())(**given)


def spans(**changes):
    return replace(dialogues(), **changes)


def one_wrong_mask():
    mask = dialogues().utterance_mask.clone()
    mask[2] = False
    return mask


def padding_picked():
    mask = dialogues().utterance_mask.clone()
    mask[4, 12] = True  # dialogue 1 has 9 tokens
    return mask


BAD_DIALOGUES = {
    "kind": (sequence(5, 9, 5), "text must be TokenizedDialogues for a text encoder, got Feature"),
    "long": (dialogues(padding=19), "text.input_ids has 33 tokens in a row, .* takes 32"),
    "flat": (spans(input_ids=torch.zeros(4, dtype=torch.int64)), r"input_ids must be \[G, T\]"),
    "attention": (
        spans(attention_mask=torch.ones(2, 13)),
        r"text.attention_mask must be \[2, 14\] as input_ids, got \[2, 13\]",
    ),
    "index shape": (spans(dialogue_index=torch.zeros(5, 1).long()), "dialogue_index must be"),
    "index dtype": (spans(dialogue_index=torch.zeros(5)), r"must be \[B\] int64, got \[5\] float"),
    "index range": (
        spans(dialogue_index=torch.tensor([0, 0, 1, 0, 2])),
        r"text.dialogue_index must be in 0..1, got 0..2",
    ),
    "mask shape": (
        spans(utterance_mask=torch.ones(4, 14, dtype=torch.bool)),
        r"text.utterance_mask must be \[5, 14\] bool, got \[4, 14\]",
    ),
    "empty row": (spans(utterance_mask=one_wrong_mask()), "utterance_mask is all False in row 2"),
    "padding": (spans(utterance_mask=padding_picked()), "picks a token that attention_mask leaves"),
    "vocabulary": (
        spans(input_ids=torch.full((2, 14), 50)),
        r"text.input_ids must be in 0..49, got 50..50: is the tokenizer",
    ),
}


@pytest.mark.parametrize("case", BAD_DIALOGUES)
def test_bad_dialogues_are_named(case):
    text, message = BAD_DIALOGUES[case]
    with pytest.raises(ValueError, match=message):
        model_with_encoder(modalities=("text",))(text=text)


class WordsAlone(torch.nn.Module):
    """An encoder of embeddings only: transformers' own read one value of the mask."""

    config = SimpleNamespace(hidden_size=12)

    def __init__(self):
        super().__init__()
        self.embeddings = torch.nn.Embedding(50, 12)

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(last_hidden_state=self.embeddings(input_ids))


def test_no_values_are_read_off_the_cpu():
    """On the meta device every look at a value raises, as a look at a GPU's would wait."""
    model = UniVA(config(text_encoder="words"), text_encoder=WordsAlone()).to("meta")
    given = {**inputs(), "text": dialogues()}
    output = model(**{name: value.to("meta") for name, value in given.items()})
    assert output.logits.shape == (5, 3)


@pytest.mark.parametrize("kind", [None, "bert", "roberta"])
def test_exactly_the_named_parameters_have_no_gradient_but_rounding(kind):
    """tests.models.determined says which; whoever compares two runs leaves them out."""
    given = inputs()
    if kind is None:
        model = UniVA(config(prior=True), similarity=torch.eye(3))
    else:
        model = model_with_encoder(kind, prior=False)
        given["text"] = dialogues()
    model = model.double()
    given = {
        name: replace(value, features=value.features.double())
        if isinstance(value, FeatureSequence)
        else value
        for name, value in given.items()
    }
    output = model(**given)
    draw = torch.Generator().manual_seed(0)
    parts = [output.logits, *output.embeddings.values()]
    parts += [] if output.similarity is None else [output.similarity]
    sum((part * torch.randn(part.shape, generator=draw)).sum() for part in parts).backward()
    noise = {n: undetermined(n, p.grad).abs() for n, p in model.named_parameters()}
    assert sum(part.numel() > 0 for part in noise.values()) >= 3 + 4
    for name, part in noise.items():
        assert part.numel() == 0 or part.max() < 1e-13, name
    for name, parameter in model.named_parameters():
        real = determined(name, parameter.grad)
        assert real.numel() == 0 or real.abs().max() > 1e-7, name
