"""Coordinates of labels: built in, or from files laid out as the NRC-VAD lexicon is."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from univa.data.lexicon import (
    EMOTION_COORDINATES,
    label_coordinates,
    read_lexicon,
    similarity_matrix,
)
from univa.errors import UserError

LABELS = {
    "MOSEI": ["happy", "sad", "anger", "surprise", "disgust", "fear"],
    "M3ED": ["Happy", "Surprise", "Sad", "Disgust", "Anger", "Fear", "Neutral"],
}
V1_HEADER = "Word\tValence\tArousal\tDominance\n"
V2_HEADER = "term\tvalence\tarousal\tdominance\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def v1(header: str = V1_HEADER, end: str = "\n") -> str:
    lines = (f"{word}\t{v}\t{a}\t0.5" for word, (v, a) in EMOTION_COORDINATES.items())
    return header + "".join(line + end for line in lines)


def v2(header: str = V2_HEADER) -> str:
    lines = (
        f"{word}\t{2 * v - 1:.12f}\t{2 * a - 1:.12f}\t0.0\n"
        for word, (v, a) in EMOTION_COORDINATES.items()
    )
    return header + "".join(lines)


@pytest.mark.parametrize("corpus", LABELS)
def test_matrix_is_the_authors(golden, corpus):
    expected = load_file(golden / "correlation_prior.safetensors")[f"{corpus}.matrix"]
    torch.testing.assert_close(similarity_matrix(LABELS[corpus]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("corpus", LABELS)
@pytest.mark.parametrize(
    "content", [v1(), v1(""), v1(end="\r\n"), v2(), v2(""), "\ufeff" + v1()], ids=range(6)
)
def test_matrix_from_a_file_is_the_authors(golden, corpus, content, tmp_path):
    lexicon = read_lexicon(write(tmp_path / "vad.txt", content))
    expected = load_file(golden / "correlation_prior.safetensors")[f"{corpus}.matrix"]
    found = similarity_matrix(LABELS[corpus], lexicon)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert len(lexicon) == 7
    assert lexicon["Happy"] == pytest.approx((1.0, 0.47))
    assert lexicon["FEAR"] == pytest.approx((-0.854, 0.68))


def test_scale_is_told_by_sign_or_header(tmp_path):
    line = "calm\t0.9\t0.1\t0.5\n"
    for header, expected in ((V1_HEADER, (0.8, -0.8)), ("", (0.8, -0.8)), (V2_HEADER, (0.9, 0.1))):
        lexicon = read_lexicon(write(tmp_path / "vad.txt", header + line))
        assert lexicon["calm"] == pytest.approx(expected)
    lexicon = read_lexicon(write(tmp_path / "vad.txt", line + "power surge\t-0.2\t0.6\t0\n"))
    assert dict(lexicon) == {"calm": (0.9, 0.1), "power surge": (-0.2, 0.6)}


def test_columns_are_found_by_name(tmp_path):
    content = "English Word\tDutch Word\tArousal\tValence\njoy\tvreugde\t0.8\t1.0\n"
    assert read_lexicon(write(tmp_path / "vad.txt", content))["joy"] == pytest.approx((1.0, 0.6))


@settings(deadline=None)
@given(
    points=st.dictionaries(
        st.text("abcdef ", min_size=1, max_size=8).filter(lambda word: word.strip() == word),
        st.tuples(st.floats(0, 1), st.floats(0, 1)),
        min_size=2,
        max_size=8,
    )
)
def test_both_scales_give_the_same_matrix(points, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lexicon")
    halves = [(a, b) for a, b in points.values()]
    first, second = (
        header + "".join(f"{w}\t{change(v)!r}\t{change(a)!r}\t0\n" for w, (v, a) in points.items())
        for header, change in ((V1_HEADER, lambda x: x), (V2_HEADER, lambda x: 2 * x - 1))
    )
    if any(max(axis) - min(axis) < 1e-3 for axis in zip(*halves, strict=True)):
        return
    matrices = [
        similarity_matrix(list(points), read_lexicon(write(folder / name, text)))
        for name, text in (("v1.txt", first), ("v2.txt", second))
    ]
    # A label within rounding of the centre has no direction to speak of.
    coordinates = label_coordinates(list(points), read_lexicon(folder / "v1.txt"))
    clear = coordinates.norm(dim=1) > 1e-6
    for matrix in matrices:
        assert bool(matrix.isfinite().all())
    torch.testing.assert_close(
        matrices[0][clear][:, clear], matrices[1][clear][:, clear], rtol=0, atol=1e-6
    )


def test_label_at_the_centre_has_no_direction():
    matrix = similarity_matrix(["happy", "sad", "neutral"])
    assert bool(matrix.isfinite().all())


def test_coordinates_span_the_axes():
    points = label_coordinates(["happy", "sad", "fear"])
    assert points.amin(0).tolist() == [-1, -1]
    assert points.amax(0).tolist() == [1, 1]


@pytest.mark.parametrize("labels", [["happy", "hapy"], ["happy"], []])
def test_bad_labels_are_refused(labels):
    with pytest.raises(UserError):
        label_coordinates(labels)


def test_label_without_built_in_coordinates_is_told_of_the_option():
    with pytest.raises(UserError, match=r"'joy'; built in are happy, .*--lexicon FILE"):
        label_coordinates(["happy", "joy"])


def test_label_not_in_the_lexicon_names_the_nearest(tmp_path):
    path = write(tmp_path / "vad.txt", v1())
    message = r"vad.txt: no label 'hapy' in this lexicon; nearest entries: happy; name"
    with pytest.raises(UserError, match=message):
        label_coordinates(["sad", "hapy"], read_lexicon(path))
    with pytest.raises(UserError, match="nearest entries: none"):
        label_coordinates(["sad", "zzz"], read_lexicon(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no words"),
        (V1_HEADER, "no words"),
        ("joy\t0.5\n", "row 1: 2 columns, not 4"),
        (V1_HEADER + "joy\t0.5\t0.4\n", "row 2: 3 columns, not 4"),
        ("joy,0.5,0.4,0.3\n", "row 1: 1 columns, not 4"),
        (V1_HEADER + "joy\thigh\t0.4\t0.3\n", "row 2: valence is 'high', not a number"),
        (V1_HEADER + "joy\t0.4\tnan\t0.3\n", "row 2: arousal is 'nan'; write a finite"),
        (
            V1_HEADER + "joy\t7.4\t2\t0.3\n",
            "row 2: 'joy' has valence and arousal .*outside -1",
        ),
        (V1_HEADER + "joy\t.4\t.2\t0\njoy\t.4\t.3\t0\n", "row 3: 'joy' comes twice"),
        ("word\temotion\tscore\njoy\tx\t1\n", "row 1: 3 columns, not 4"),
    ],
)
def test_odd_files_are_refused_in_one_line(content, said, tmp_path):
    path = write(tmp_path / "vad.txt", content)
    with pytest.raises(UserError, match=said) as refused:
        read_lexicon(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such file; give the NRC-VAD lexicon"):
        read_lexicon(tmp_path / "vad.txt")
    (tmp_path / "latin").write_bytes(b"caf\xe9\t1\t1\t1\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_lexicon(tmp_path / "latin")


def test_equal_lines_and_case_are_one_entry(tmp_path):
    lexicon = read_lexicon(write(tmp_path / "vad.txt", "Joy\t1\t1\t1\njoy\t1\t1\t1\n"))
    assert list(lexicon) == ["joy"]
    assert math.isclose(lexicon["JOY"][0], 1.0)
