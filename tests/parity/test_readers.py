"""Every tensor that the authors' readers make of their file layout, to the last bit."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from univa.config.authors import as_authors
from univa.data import AuthorsNormalizer
from univa.data.build import load_corpus, make_collator, make_normalizer
from univa.presets import PRESETS
from univa.utils.tokenizer import load_tokenizer

# To which their arrays are padded.
LENGTHS = {"max_text_length": 8, "max_audio_length": 9, "max_vision_length": 7}
FILES = [
    ("MOSEI", "official_roberta", "mosei-roberta"),
    ("M3ED", "official_bert", "m3ed-roberta"),
    ("MOSEI", "official_glove", "mosei-glove"),
    ("M3ED", "official_glove", "m3ed-glove"),
]


@pytest.mark.parametrize(("data_set", "file", "preset"), FILES)
@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_every_tensor(golden, data_set, file, preset, name):
    folder = golden / "official_layout" / data_set
    given = PRESETS[preset]()
    config = as_authors(
        replace(
            given,
            model=replace(given.model, audio_dim=12, vision_dim=10, **LENGTHS),
            data=replace(given.data, folder=str(folder), authors=False),
        )
    )
    corpus = load_corpus(config)
    split = corpus.splits[name]
    collator = make_collator(
        config,
        split,
        SimpleNamespace(max_tokens=512),
        tokenizer=load_tokenizer(folder / "tokenizer") if config.uses_tokens else None,
        normalizer=make_normalizer(config, corpus.train),
    )
    batch = collator(list(range(len(split))))
    ours = {"labels": batch.labels}
    for modality, value in batch.inputs.items():
        ours[f"{modality}_va"] = batch.coordinates[modality]
        if modality == "text" and config.uses_tokens:  # a row per utterance is theirs
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
    assert len(theirs) == (11 if config.uses_tokens else 10)


def test_normalisation(golden):
    case = load_file(golden / "va_normalization.safetensors")
    ours = AuthorsNormalizer().apply(case["va"], "text")
    assert torch.equal(ours, case["official_normalized"])
