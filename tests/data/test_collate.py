import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from univa.data import (
    Collator,
    Dialogue,
    Split,
    Utterance,
    VANormalizer,
    read_authors_text,
    synthetic_corpus,
)
from univa.errors import UserError

WORDS = [f"w{number}" for number in range(30)]


def word_tokenizer(style):
    """A word-level tokenizer with the special tokens of a family of models."""
    cls, sep, unk, pad = {
        "bert": ("[CLS]", "[SEP]", "[UNK]", "[PAD]"),
        "roberta": ("<s>", "</s>", "<unk>", "<pad>"),
        "roberta without template": ("<s>", "</s>", "<unk>", "<pad>"),
        "gpt": (None, None, "<end>", None),
    }[style]
    vocabulary = dict.fromkeys(t for t in (pad, unk, cls, sep, "a", *WORDS) if t)
    ids = {token: place for place, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = [(token, ids[token]) for token in (cls, sep) if token]
    if style == "bert":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=specials
        )
    elif style == "roberta":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} {sep} $B {sep}", special_tokens=specials
        )
    names = {"cls_token": cls, "sep_token": sep, "unk_token": unk, "pad_token": pad}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{name: token for name, token in names.items() if token}
    )


STYLES = {
    name: word_tokenizer(name) for name in ("bert", "roberta", "roberta without template", "gpt")
}
# style -> tokens before, between and after the utterances of a row
AROUND = {
    "bert": (["[CLS]"], ["[SEP]"], ["[SEP]"]),
    "roberta": (["<s>"], ["</s>", "</s>"], ["</s>"]),
    "roberta without template": (["<s>"], ["</s>", "</s>"], ["</s>"]),
    "gpt": ([], [], []),
}


def split_of(dialogues, name="train"):
    """A split of dialogues given as lists of texts."""
    return Split(
        name=name,
        dialogues=tuple(
            Dialogue(
                id=f"d{place}",
                utterances=tuple(
                    Utterance(
                        id=f"d{place}_{number}",
                        dialogue_id=f"d{place}",
                        text=text,
                        labels=torch.tensor([float(number % 2)]),
                    )
                    for number, text in enumerate(texts)
                ),
            )
            for place, texts in enumerate(dialogues)
        ),
    )


texts = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
dialogues = st.lists(st.lists(texts, min_size=1, max_size=8), min_size=1, max_size=5)


@settings(deadline=None)
@given(st.data(), dialogues, st.integers(5, 40), st.sampled_from(list(STYLES)), st.booleans())
def test_each_utterance_is_picked_from_one_row_of_its_dialogue(
    data, spoken, max_tokens, style, context
):
    tokenizer = STYLES[style]
    split = split_of(spoken)
    collator = Collator(
        split, text="tokens", tokenizer=tokenizer, max_tokens=max_tokens, context=context
    )
    indices = data.draw(st.lists(st.integers(0, len(split) - 1), min_size=1, max_size=12))
    batch = collator(indices)
    rows = batch.text
    assert rows.input_ids.shape == rows.attention_mask.shape
    assert rows.input_ids.shape[1] <= max_tokens
    assert rows.input_ids.shape[1] == rows.attention_mask.sum(1).max()
    # Each row is that of at least one utterance, and no two rows are of the same window.
    assert sorted(set(rows.dialogue_index.tolist())) == list(range(len(rows.input_ids)))
    windows = {
        (batch.groups[k].item(), tuple(rows.input_ids[row].tolist()), row)
        for k, row in enumerate(rows.dialogue_index.tolist())
    }
    assert len(windows) == len(rows.input_ids)
    before, _, after = AROUND[style]
    room = max_tokens - len(before) - len(after)
    specials = set(tokenizer.convert_tokens_to_ids([*before, *after]))
    for k, index in enumerate(indices):
        row = rows.input_ids[rows.dialogue_index[k]]
        own = tokenizer(split.utterances[index].text, add_special_tokens=False)["input_ids"]
        expected = own[:room] or [tokenizer.unk_token_id]
        assert row[rows.utterance_mask[k]].tolist() == expected
        assert not specials & set(expected)
        places = rows.utterance_mask[k].nonzero().flatten()
        assert places[-1] - places[0] == len(places) - 1
        assert rows.attention_mask[rows.dialogue_index[k]][places].all()
        assert batch.groups[k] == int(split.utterances[index].dialogue_id[1:])
        assert batch.utterance_ids[k] == split.utterances[index].id


@settings(deadline=None)
@given(dialogues, st.integers(5, 40), st.sampled_from(list(STYLES)))
def test_the_rows_of_a_split_hold_its_utterances_in_order_and_nothing_else(
    spoken, max_tokens, style
):
    tokenizer = STYLES[style]
    split = split_of(spoken)
    collator = Collator(split, text="tokens", tokenizer=tokenizer, max_tokens=max_tokens)
    rows = collator(range(len(split))).text
    before, between, after = AROUND[style]
    room = max_tokens - len(before) - len(after)
    start = 0
    windows = {place: [] for place in range(len(spoken))}
    for row in range(len(rows.input_ids)):
        members = (rows.dialogue_index == row).nonzero().flatten().tolist()
        assert members == list(range(start, start + len(members)))
        start += len(members)
        assert len({split.utterances[i].dialogue_id for i in members}) == 1
        windows[int(split.utterances[members[0]].dialogue_id[1:])].append(len(members))
        pieces = [
            (tokenizer.tokenize(split.utterances[i].text) or [tokenizer.unk_token])[:room]
            for i in members
        ]
        expected = list(before)
        for place, piece in enumerate(pieces):
            expected += (between if place else []) + piece
        length = int(rows.attention_mask[row].sum())
        assert rows.attention_mask[row, :length].all()
        ids = rows.input_ids[row, :length].tolist()
        assert tokenizer.convert_ids_to_tokens(ids) == expected + after
        padding = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        assert (rows.input_ids[row, length:] == padding).all()
    assert start == len(split)
    # No dialogue is cut that fits, and none into more windows than filling them up would give.
    for place, counts in windows.items():
        sizes = [min(max(1, len(text.split())), room) for text in spoken[place]]
        greedy, used = 1, 0
        for number, size in enumerate(sizes):
            used += size + (len(between) if number else 0)
            if used > room:
                greedy, used = greedy + 1, size
        assert len(counts) == greedy


def test_windows_are_even():
    text = " ".join(WORDS[:4])
    tokenizer = STYLES["bert"]
    # 5 utterances of 4 tokens fit 4 to a row of 21: [CLS] + 4 * 4 + 3 + [SEP]
    split = split_of([[text] * 5])
    collator = Collator(split, text="tokens", tokenizer=tokenizer, max_tokens=21)
    assert collator(range(5)).text.dialogue_index.tolist() == [0, 0, 0, 1, 1]
    assert collator([4, 0]).text.dialogue_index.tolist() == [0, 1]
    assert collator([4, 3, 4]).text.dialogue_index.tolist() == [0, 0, 0]


def test_without_context_every_utterance_is_its_own_row():
    split = split_of([["w1 w2", "w3"], ["w4"]])
    collator = Collator(split, text="tokens", tokenizer=STYLES["bert"], context=False)
    rows = collator([2, 1, 0]).text
    assert rows.dialogue_index.tolist() == [0, 1, 2]
    assert rows.attention_mask.sum(1).tolist() == [3, 3, 4]


def test_a_dialogue_is_one_row_whatever_is_picked_from_it():
    split = split_of([[f"w{i}" for i in range(9)], ["w1"]])
    collator = Collator(split, text="tokens", tokenizer=STYLES["roberta"])
    assert len(collator(range(9)).text.input_ids) == 1
    assert len(collator([0, 9, 5]).text.input_ids) == 2


def test_max_tokens_must_leave_room():
    with pytest.raises(UserError, match="max_tokens 2 leaves no room beside 1 \\+ 1 special"):
        Collator(split_of([["w1"]]), text="tokens", tokenizer=STYLES["bert"], max_tokens=2)


@pytest.mark.parametrize("data_set", ["MOSEI", "M3ED"])
def test_token_rows_agree_with_the_authors_reader(golden, data_set):
    folder = golden / "official_layout" / data_set
    corpus = read_authors_text(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    case = {"MOSEI": "official_roberta", "M3ED": "official_bert"}[data_set]
    theirs = load_file(folder / f"{case}.safetensors")
    compared = 0
    for name, split in corpus.splits.items():
        rows = Collator(split, text="tokens", tokenizer=tokenizer)(range(len(split))).text
        for k in range(len(split)):
            length = int(theirs[f"{name}.text_mask"][k].sum())
            if length == 512:  # theirs was cut; ours is in windows
                continue
            row = rows.dialogue_index[k]
            assert int(rows.attention_mask[row].sum()) == length
            assert torch.equal(
                rows.input_ids[row, :length], theirs[f"{name}.text"][k, :length].long()
            )
            width = rows.input_ids.shape[1]
            assert torch.equal(
                rows.utterance_mask[k],
                theirs[f"{name}.text_utterance_mask"][k, :width].bool(),
            )
            compared += 1
    # MOSEI's one long dialogue of 40 utterances is the only one that theirs cuts.
    assert compared == {"MOSEI": 61 - 40, "M3ED": 65}[data_set]


def test_a_real_tokenizer_on_the_authors_layout(golden, minilm):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    split = read_authors_text(golden / "official_layout" / "MOSEI").train
    collator = Collator(split, text="tokens", tokenizer=tokenizer, max_tokens=128)
    rows = collator(range(len(split))).text
    assert rows.input_ids.shape[1] <= 128
    assert (rows.input_ids[:, 0] == tokenizer.cls_token_id).all()
    for k, item in enumerate(split.utterances):
        ids = rows.input_ids[rows.dialogue_index[k]]
        own = tokenizer(item.text, add_special_tokens=False)["input_ids"]
        assert ids[rows.utterance_mask[k]].tolist() == own
        assert "".join(tokenizer.decode(own).split()) == "".join(item.text.lower().split())
    # A short dialogue is what the tokenizer itself makes of two texts.
    pair = split_of([["It rained.", "Nobody came!"]])
    row = Collator(pair, text="tokens", tokenizer=tokenizer)([0, 1]).text.input_ids[0]
    assert row.tolist() == tokenizer("It rained.", "Nobody came!")["input_ids"]


@pytest.fixture(scope="module")
def corpus():
    return synthetic_corpus(train_dialogues=6, valid_dialogues=1, test_dialogues=1)


def test_features_are_padded_and_masked(corpus):
    split = corpus.train
    indices = [5, 0, 11, 5]
    batch = Collator(split)(indices)
    assert set(batch.inputs) == {"text", "audio", "vision"}
    for modality, sequences in batch.inputs.items():
        steps = [len(split.utterances[i].features[modality]) for i in indices]
        assert sequences.features.shape[:2] == (4, max(steps))
        assert sequences.mask.sum(1).tolist() == steps
        assert (sequences.features[~sequences.mask] == 0).all()
        for k, index in enumerate(indices):
            real = sequences.features[k][sequences.mask[k]]
            assert torch.equal(real, split.utterances[index].features[modality])
    assert batch.labels.tolist() == [split.utterances[i].labels.tolist() for i in indices]
    assert batch.utterance_ids == tuple(split.utterances[i].id for i in indices)
    names = [split.utterances[i].dialogue_id for i in indices]
    same = torch.tensor([[a == b for b in names] for a in names])
    assert torch.equal(batch.groups[:, None] == batch.groups, same)
    assert batch.groups.dtype == torch.int64


def test_long_sequences_keep_their_start(corpus):
    batch = Collator(corpus.train, max_lengths={"audio": 3})([0, 1])
    assert batch.audio.features.shape[1] == 3
    assert batch.audio.mask.all()
    kept = corpus.train.utterances[0].features["audio"][:3]
    assert torch.equal(batch.audio.features[0], kept)
    assert batch.vision.features.shape[1] > 3
    with pytest.raises(UserError, match="the longest audio sequence must be at least 1, got 0"):
        Collator(corpus.train, max_lengths={"audio": 0})


def test_coordinates_are_normalised_when_asked(corpus):
    split = corpus.train
    raw = Collator(split)([3, 1]).coordinates
    assert torch.equal(raw["vision"], split.coordinates("vision")[[3, 1]])
    normalizer = VANormalizer.fit(split)
    batch = Collator(split, normalizer=normalizer)([3, 1])
    for modality in ("text", "audio", "vision"):
        assert torch.equal(batch.coordinates[modality], normalizer.apply(raw[modality], modality))


def test_only_the_modalities_asked_for(corpus):
    batch = Collator(corpus.train, modalities=("vision", "audio"))([0])
    assert set(batch.inputs) == set(batch.coordinates) == {"audio", "vision"}
    tokens = Collator(corpus.train, text="tokens", tokenizer=STYLES["bert"])([0, 1])
    assert len(tokens.text.input_ids) == 1
    assert set(tokens.inputs) == {"text", "audio", "vision"}
    with pytest.raises(UserError, match=r"split 'train' has no audio features .*of no modality"):
        Collator(split_of([["w1"]]), modalities=("audio",))
    with pytest.raises(UserError, match=r"has no text features .* or text as tokens"):
        Collator(split_of([["w1"]]), modalities=("text",))
    with pytest.raises(ValueError, match="needs a tokenizer"):
        Collator(corpus.train, text="tokens")
