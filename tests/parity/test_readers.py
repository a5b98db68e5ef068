"""Every tensor that the authors' readers make of their file layout, to the last bit."""

import pytest
import torch
from safetensors.torch import load_file

from univa.data import AuthorsNormalizer, Collator, read_authors
from univa.tokenizer import load_tokenizer

LENGTHS = {"text": 8, "audio": 9, "vision": 7}  # to which their arrays are padded
FILES = [
    ("MOSEI", "official_roberta", "tokens"),
    ("M3ED", "official_bert", "tokens"),
    ("MOSEI", "official_glove", "vectors"),
    ("M3ED", "official_glove", "vectors"),
]


@pytest.mark.parametrize(("data_set", "file", "text"), FILES)
@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_every_tensor(golden, data_set, file, text, name):
    folder = golden / "official_layout" / data_set
    split = read_authors(folder, text=text).splits[name]
    collator = Collator(
        split,
        text=text,
        tokenizer=load_tokenizer(folder / "tokenizer") if text == "tokens" else None,
        max_lengths=LENGTHS,
        normalizer=AuthorsNormalizer(twice=("text",) if text == "vectors" else ()),
        authors=True,
        full=True,
    )
    batch = collator(list(range(len(split))))
    ours = {"labels": batch.labels}
    for modality, value in batch.inputs.items():
        ours[f"{modality}_va"] = batch.coordinates[modality]
        if modality == "text" and text == "tokens":  # a row per utterance is theirs
            ours["text"] = value.input_ids[value.dialogue_index]
            ours["text_mask"] = value.attention_mask[value.dialogue_index]
            ours["text_utterance_mask"] = value.utterance_mask
        else:
            ours[modality], ours[f"{modality}_mask"] = value.features, value.mask
    theirs = {
        key.removeprefix(f"{name}."): tensor
        for key, tensor in load_file(folder / f"{file}.safetensors").items()
        if key.startswith(f"{name}.")
    }
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        assert torch.equal(ours[key].to(expected.dtype), expected), key
    assert len(theirs) == (11 if text == "tokens" else 10)


def test_normalisation(golden):
    case = load_file(golden / "va_normalization.safetensors")
    ours = AuthorsNormalizer().apply(case["va"], "text")
    assert torch.equal(ours, case["official_normalized"])
