import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from univa.data import M3ED_LABELS, MOSEI_LABELS, read_authors_text
from univa.errors import UserError

TABLE = """video_id,clip_id,mode,truely_sort,text,happy,sad,anger,surprise,disgust,fear,sentiment
a,0,train,0,"well, first",1.0,0.0,0,0,0,0,1
a,1,train,1,"it said ""no""
and went
on",0.0,0.33333334,2.5,0,0,0,-1
b,0,valid,0,second,0,0,0,0,0,0,0
c,0,test,0,,0,0,0,0,0,3.0,0
"""
STRUCTURE = {
    "train": {"a": ["a_0", "a_1"]},
    "valid": {"b": ["b_0"]},
    "test": {"c": ["c_0"]},
}
SCORES = {
    "train": {"a_0": ["well", "0.5", "-0.25"], "a_1": ["it", 1, 2]},
    "valid": {"b_0": ["second", "0", "1e-3"]},
    "test": {"c_0": ["B", "", "0.1", "0.2"]},
}
ANNOTATIONS = {
    "train": {
        "a_0": {"text": "well, first", "Emotion": "Happy,Anger"},
        "a_1": {"text": "", "Emotion": "Neutral"},
    },
    "valid": {"b_0": {"text": "second", "Emotion": ""}},
    "test": {"c_0": {"text": "third", "Emotion": "Fear, Sad"}},
}


@pytest.fixture
def layout(tmp_path):
    """Writes a folder in the authors' layout; parts given as None are left out."""

    def write(*, table=TABLE, structure=STRUCTURE, scores=SCORES, annotations=None):
        preprocessed = tmp_path / "preprocess_data"
        preprocessed.mkdir()
        if table is not None:
            content = table if isinstance(table, bytes) else table.encode()
            (tmp_path / "final_multi_labels.csv").write_bytes(content)
        for name, part in (
            ("videos_structure", structure),
            ("raw_utt_text_textVA", scores),
            ("utt_annot", annotations),
        ):
            if part is not None:
                text = part if isinstance(part, str) else json.dumps(part, indent=0)
                (preprocessed / f"{name}.json").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def error_of(folder, **options):
    with pytest.raises(UserError) as caught:
        read_authors_text(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edited(original, **changes):
    """A copy of {split: {key: value}} with the splits of `changes` replaced."""
    return json.loads(json.dumps(original)) | changes


def test_mosei_form(layout):
    corpus = read_authors_text(layout())
    assert corpus.label_names == MOSEI_LABELS
    first, second = corpus.train.utterances
    assert (first.id, first.dialogue_id, first.text) == ("a_0", "a", "well, first")
    assert second.text == 'it said "no"\nand went\non'
    assert corpus.train.labels.tolist() == [[1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0]]
    assert corpus.test.labels.tolist() == [[0, 0, 0, 0, 0, 1]]
    assert corpus.test.utterances[0].text == ""
    assert first.coordinates == {"text": (0.5, -0.25)}
    assert corpus.test.utterances[0].coordinates == {"text": (0.1, 0.2)}
    assert corpus.feature_sizes == {}


def test_chosen_labels_keep_their_order_and_extra_columns_can_be_asked_for(layout):
    corpus = read_authors_text(layout(), labels=["sentiment", "anger", "happy"])
    assert corpus.label_names == ("sentiment", "anger", "happy")
    assert corpus.train.labels.tolist() == [[1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_other_line_ends_and_a_byte_order_mark(layout, end):
    corpus = read_authors_text(layout(table=b"\xef\xbb\xbf" + TABLE.replace("\n", end).encode()))
    assert len(corpus.train) == 2


def test_m3ed_form(layout):
    corpus = read_authors_text(layout(table=None, annotations=ANNOTATIONS))
    assert corpus.label_names == M3ED_LABELS
    present = [
        {name for name, value in zip(M3ED_LABELS, row, strict=True) if value}
        for split in corpus.splits.values()
        for row in split.labels
    ]
    assert present == [{"Happy", "Anger"}, {"Neutral"}, set(), {"Fear", "Sad"}]
    assert corpus.test.utterances[0].text == "third"
    assert corpus.test.utterances[0].coordinates == {"text": (0.1, 0.2)}


def test_scores_are_optional_unless_required_or_named(layout, tmp_path):
    folder = layout(scores=None)
    assert read_authors_text(folder).coordinate_modalities == ()
    path = folder / "preprocess_data/raw_utt_text_textVA.json"
    assert error_of(folder, require_va=True).startswith(f"{path}: no such file; write it with")
    other = tmp_path / "other.json"
    assert error_of(folder, va_file=other).startswith(f"{other}: no such file; write it with")
    other.write_text(json.dumps(SCORES))
    corpus = read_authors_text(folder, va_file=other)
    assert corpus.train.coordinates("text").tolist() == [[0.5, -0.25], [1.0, 2.0]]


def replaced(text, old, new):
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        (
            replaced(TABLE, ",anger,", ",angre,"),
            1,
            "no column 'anger' (did you mean 'angre'?); the columns are video_id, clip_id, mode, "
            "truely_sort, text, happy, sad, angre, surprise, disgust, fear, sentiment",
        ),
        (replaced(TABLE, ",anger,", ",happy,"), 1, "column 'happy' comes twice; keep one of them"),
        (
            replaced(TABLE, "0.33333334", "nan"),
            3,
            "column 'sad' is 'nan'; write a finite number or remove the row",
        ),
        (
            replaced(TABLE, "3.0", "inf"),
            7,
            "column 'fear' is 'inf'; write a finite number or remove the row",
        ),
        (
            replaced(TABLE, "3.0", "much"),
            7,
            "column 'fear' is 'much', not a number; write a number",
        ),
        (replaced(TABLE, "3.0", ""), 7, "column 'fear' is '', not a number; write a number"),
        (
            replaced(TABLE, "b,0,valid", "bb,0,valid"),
            6,
            "dialogue 'bb' is not in {structure}; add it there or remove its rows",
        ),
        (
            replaced(TABLE, "b,0,valid", "b,7,valid"),
            6,
            "utterance 'b_7' is not listed under dialogue 'b' in {structure}; add it there or "
            "remove the row",
        ),
        (
            replaced(TABLE, "b,0,valid", "b,0,train"),
            6,
            "mode 'train', but {structure} has dialogue 'b' in split 'valid'; make them agree",
        ),
        (
            TABLE + "a,0,train,0,again,0,0,0,0,0,0,0\n",
            8,
            "utterance 'a_0' comes twice, first in row 2; remove one",
        ),
        (
            replaced(TABLE, '"well, first"', "well, first"),
            2,
            "13 fields but 12 columns in the header; mend the row (quote a text that holds a "
            "comma)",
        ),
        (
            replaced(TABLE, "second", '"second'),
            6,
            "not CSV (unexpected end of data); mend the quotes of the row",
        ),
        (TABLE.encode() + b"d,0,test,0,\xff\xfe", 8, "not UTF-8 text; save the file as UTF-8"),
    ],
)
def test_a_bad_table_is_named_with_its_row(layout, table, row, message):
    folder = layout(table=table)
    structure = folder / "preprocess_data/videos_structure.json"
    place = f"{folder / 'final_multi_labels.csv'}, row {row}"
    assert error_of(folder) == f"{place}: {message.format(structure=structure)}"


def test_an_unknown_label_is_answered_with_the_nearest(layout):
    folder = layout()
    message = error_of(folder, labels=["happy", "Suprise"])
    assert message.startswith(
        f"{folder / 'final_multi_labels.csv'}, row 1: no column 'Suprise' (did you mean "
        "'surprise'?); the columns are video_id, "
    )
    assert "did you mean" not in error_of(folder, labels=["xyz"])
    assert error_of(folder, labels=["sad", "sad"]) == (
        f"{folder}: label 'sad' is named twice; name it once"
    )


def test_an_empty_table(layout):
    folder = layout(table="")
    assert error_of(folder).startswith(f"{folder / 'final_multi_labels.csv'}: the file is empty; ")


@pytest.mark.parametrize(
    ("structure", "row", "message"),
    [
        (
            edited(STRUCTURE, valid={}),
            8,
            "split 'valid' is empty; list its dialogues as {dialogue: [utterance ids]}",
        ),
        (
            {name: STRUCTURE[name] for name in ("train", "test")},
            None,
            "split 'valid' is empty; list its dialogues as {dialogue: [utterance ids]}",
        ),
        (
            edited(STRUCTURE, vaild={}),
            18,
            "unknown split 'vaild' (did you mean 'valid'?); the splits are train, valid, test",
        ),
        (
            edited(STRUCTURE, test={"c": ["c_0"], "d": []}),
            17,
            "dialogue 'd' has no utterances; remove it",
        ),
        (
            edited(STRUCTURE, test={"c": "c_0"}),
            14,
            "dialogue 'c' must be a list of utterance ids; mend it",
        ),
        (
            edited(STRUCTURE, test={"a": ["c_0"]}),
            14,
            "dialogue 'a' is in split 'train' and in 'test'; leave it in one",
        ),
        (
            edited(STRUCTURE, test={"c": ["c_0", "a_1"]}),
            16,
            "utterance 'a_1' comes twice, in dialogues 'a' and 'c'; leave it in one place",
        ),
        (
            edited(STRUCTURE, test={"c": ["c_0", "c_1"]}),
            16,
            "utterance 'c_1' has no row in {table}; add the row or take the utterance out of the "
            "structure",
        ),
        (
            '{\n"train": {"a": ["a_0"]},\n"train": {"a": ["a_0"]}}',
            3,
            "'train' comes twice; keep one of them",
        ),
        (
            '{\n"train": {"a": ["a_0" "a_1"]}}',
            2,
            "invalid JSON at column 23 (Expecting ',' delimiter); mend it or write the file anew",
        ),
        ("[]", None, "expected a JSON object, got list"),
    ],
)
def test_a_bad_structure_is_named_with_its_row(layout, structure, row, message):
    folder = layout(structure=structure)
    place = f"{folder / 'preprocess_data/videos_structure.json'}"
    place += f", row {row}" if row else ""
    table = str(folder / "final_multi_labels.csv")
    assert error_of(folder) == f"{place}: {message.replace('{table}', table)}"


@pytest.mark.parametrize(
    ("scores", "row", "message"),
    [
        (
            edited(SCORES, train={"a_0": ["well", "0.5", "0.1"]}),
            None,
            "utterance 'a_1' of split 'train' has no valence-arousal score ({structure}, row 5 "
            "lists it); score it with `univa va score-text`",
        ),
        (
            {"train": SCORES["train"], "test": SCORES["test"]},
            None,
            "no scores of split 'valid'; score it with `univa va score-text`",
        ),
        (
            edited(SCORES, valid={"b_0": ["second", "0", "NaN"]}),
            15,
            "arousal of utterance 'b_0' is 'NaN'; write a finite number or remove the row",
        ),
        (
            edited(SCORES, valid={"b_0": ["second", float("-inf"), "0"]}),
            15,
            "valence of utterance 'b_0' is -inf; write a finite number or remove the row",
        ),
        (
            edited(SCORES, valid={"b_0": ["second", "high", "0"]}),
            15,
            "valence of utterance 'b_0' is 'high', not a number; write a number",
        ),
        (
            edited(SCORES, valid={"b_0": ["second", "0", None]}),
            15,
            "arousal of utterance 'b_0' is None, not a number; write a number",
        ),
        (
            edited(SCORES, valid={"b_0": ["second", "0"]}),
            15,
            "utterance 'b_0' must be [text, valence, arousal] or [speaker, text, valence, "
            "arousal]; mend it",
        ),
        (
            {**SCORES, "meta": {"modality": "audio"}},
            None,
            "scores of audio, not of text; give those of the text",
        ),
        (
            "{",
            1,
            "invalid JSON at column 2 (Expecting property name enclosed in double quotes); mend "
            "it or write the file anew",
        ),
    ],
)
def test_bad_scores_are_named_with_their_row(layout, scores, row, message):
    folder = layout(scores=scores)
    place = f"{folder / 'preprocess_data/raw_utt_text_textVA.json'}"
    place += f", row {row}" if row else ""
    structure = folder / "preprocess_data/videos_structure.json"
    assert error_of(folder) == f"{place}: {message.format(structure=structure)}"


@pytest.mark.parametrize(
    ("annotations", "row", "message"),
    [
        (
            edited(ANNOTATIONS, valid={"b_0": {"text": "t", "Emotion": "Hapy"}}),
            13,
            "unknown emotion 'Hapy' of utterance 'b_0' (did you mean 'Happy'?); the labels are "
            "Happy, Surprise, Sad, Disgust, Anger, Fear, Neutral",
        ),
        (
            edited(ANNOTATIONS, valid={"b_0": {"text": "t"}}),
            13,
            'utterance \'b_0\' must be {"text": "...", "Emotion": "..."}; mend it',
        ),
        (
            edited(ANNOTATIONS, valid={"a_0": {"text": "t", "Emotion": "Sad"}}),
            3,
            "utterance 'a_0' is not in split 'valid' of {structure}; add it there or remove it "
            "here",
        ),
        (
            edited(ANNOTATIONS, valid=[]),
            12,
            "split 'valid' must be an object of utterances; mend it",
        ),
    ],
)
def test_bad_annotations_are_named_with_their_row(layout, annotations, row, message):
    folder = layout(table=None, annotations=annotations)
    place = f"{folder / 'preprocess_data/utt_annot.json'}, row {row}"
    structure = str(folder / "preprocess_data/videos_structure.json")
    assert error_of(folder) == f"{place}: {message.replace('{structure}', structure)}"


def test_an_utterance_without_annotation_and_an_unknown_m3ed_label(layout):
    folder = layout(table=None, annotations=edited(ANNOTATIONS, valid={}))
    assert "utterance 'b_0' has no row in" in error_of(folder)
    message = error_of(folder, labels=["happy"])
    assert "utt_annot.json: no label 'happy' (did you mean 'Happy'?)" in message


def test_missing_files(layout, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert error_of(nowhere).startswith(f"{nowhere}: no such folder; ")
    folder = layout(table=None)
    assert error_of(folder).startswith(f"{folder}: neither final_multi_labels.csv nor ")
    structure = folder / "preprocess_data/videos_structure.json"
    structure.unlink()
    assert error_of(folder).startswith(f"{structure}: no such file; ")


@pytest.mark.parametrize(
    ("data_set", "file", "names"),
    [
        ("MOSEI", "official_roberta", MOSEI_LABELS),
        ("M3ED", "official_bert", M3ED_LABELS),
    ],
)
def test_labels_agree_with_the_authors_reader(golden, data_set, file, names):
    folder = golden / "official_layout" / data_set
    corpus = read_authors_text(folder)
    expected = load_file(folder / f"{file}.safetensors")
    assert corpus.label_names == names
    for name, split in corpus.splits.items():
        assert torch.equal(split.labels, expected[f"{name}.labels"])
    raw = json.loads((folder / "preprocess_data/raw_utt_text_textVA.json").read_text("utf-8"))
    for name, split in corpus.splits.items():
        for item, entry in zip(split.utterances, raw[name].values(), strict=True):
            assert item.text == entry[-3]
            assert item.coordinates == {"text": (float(entry[-2]), float(entry[-1]))}


def test_real_mosei_text(shared):
    folder = shared / "data" / "mosei_text"
    corpus = read_authors_text(folder)
    sizes = {name: (len(s), len(s.dialogues)) for name, s in corpus.splits.items()}
    assert sizes == {"train": (3660, 540), "valid": (1002, 136), "test": (867, 150)}
    by_id = {item.id: item for split in corpus.splits.values() for item in split.utterances}
    with (folder / "final_multi_labels.csv").open(encoding="utf-8", newline="") as stream:
        for record in csv.DictReader(stream):
            item = by_id.pop(f"{record['video_id']}_{record['clip_id']}")
            assert item.text == record["text"]
            intensities = [float(record[name]) for name in MOSEI_LABELS]
            assert item.labels.tolist() == [float(value > 0) for value in intensities]
    assert not by_id
    assert corpus.coordinate_modalities == ()
