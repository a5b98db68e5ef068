"""A reader of pickles that runs nothing."""

import io
import os
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tests.data.limited import call_within
from univa.data.sources.safe_pickle import PickledArray, read_pickle
from univa.errors import UserError

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
    | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
    | st.tuples(inner, inner),
    max_leaves=12,
)  # fmt: skip
numbers = arrays(
    st.sampled_from(["<f4", ">f8", "<i8", "u1", "?", "<f2", "<U3"]),
    array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)


@settings(deadline=None)
@given(plain, st.integers(0, 5))
def test_plain_values_come_back(tmp_path_factory, value, protocol):
    path = tmp_path_factory.getbasetemp() / "plain.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert read_pickle(path) == value


@settings(deadline=None)
@given(numbers, st.integers(2, 5), st.booleans())
def test_arrays_come_back(tmp_path_factory, array, protocol, fortran):
    path = tmp_path_factory.getbasetemp() / "array.pkl"
    array = np.asfortranarray(array) if fortran else array
    # Twice the same object: the second is a reference.
    path.write_bytes(pickle.dumps({"a": [array, 1], "b": array}, protocol=protocol))
    result = read_pickle(path)
    for value in (result["a"][0], result["b"]):
        whole = value.load() if isinstance(value, PickledArray) else value
        assert whole.dtype == array.dtype
        np.testing.assert_array_equal(whole, array)
    if protocol > 2 and array.ndim > 1:
        for index in range(len(array)):
            np.testing.assert_array_equal(result["b"].row(index), array[index])
            np.testing.assert_array_equal(result["b"].row(index, 1), array[index][:1])


def test_numpy_scalars_and_bytes(tmp_path: Path):
    path = tmp_path / "x.pkl"
    value = {"a": np.float32(1.5), "b": np.int64(-3), "c": b"ab"}
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps(value, protocol=protocol))
        assert read_pickle(path) == {"a": 1.5, "b": -3, "c": b"ab"}


def written(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "bad.pkl"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_pickle(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


class Run:
    """Writes a file when unpickled."""

    def __init__(self, path: Path, how: str) -> None:
        self.path, self.how = path, how

    def __reduce__(self):
        return {
            "system": (os.system, (f"touch {self.path}",)),
            "eval": (eval, (f"open({str(self.path)!r}, 'w')",)),
        }[self.how]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("how", ["system", "eval"])
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, how, protocol):
    victim = tmp_path / "victim"
    data = pickle.dumps({"audio": [1, Run(victim, how)]}, protocol=protocol)
    message = written(tmp_path, data)
    assert "the global" in message
    assert "is refused" in message
    assert not victim.exists()
    pickle.loads(data)  # Python's own does run it: the file is what it seems to be
    assert victim.exists()


def test_calls_through_known_names_are_refused(tmp_path: Path):
    # The known globals are not callables here: neither numpy's nor anything stored in a memo.
    array = b"cnumpy.core.multiarray\n_reconstruct\n"
    for arguments, said in (
        (b"(cnumpy\ndtype\nI0\nS'b'\ntR.", "STRING is refused"),
        (b"(cnumpy\ndtype\nI0\ntR.", "an array subclass is refused"),
        (b"(I1\ntR.", "an array subclass"),
    ):
        assert said in written(tmp_path, array + arguments)
    assert "a call of something else" in written(tmp_path, b"cnumpy\nndarray\n(I1\ntR.")
    assert "_codecs.encode" in written(tmp_path, b"c_codecs\nencode\n(Va\nVrot13\ntR.")
    assert "as a value is refused" in written(tmp_path, b"cnumpy\ndtype\n.")
    dtype = b"cnumpy\ndtype\n(V%s\ntR."
    for code in (b"O", b"f4,O", b"V8", b"M8[s]"):
        assert "is refused" in written(tmp_path, dtype % code)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({1, 2}, "opcode EMPTY_SET is refused"),
        (Path("x"), "the global"),
        (1j, "the global builtins.complex is refused"),
        (np.array([1, "a", None], dtype=object), "an array of dtype 'O8' is refused"),
        (np.zeros(2, dtype=[("a", "f4")]), "is refused"),
        ({(1, 2): 3}, "a dict key of type tuple"),
        ({b"a": 3}, "a dict key of type Bytes"),
    ],
)
def test_other_things_are_named(tmp_path: Path, value, said):
    assert said in written(tmp_path, pickle.dumps(value, protocol=4))


def test_every_opcode_of_the_language_is_either_handled_or_refused_by_name(tmp_path: Path):
    from univa.data.sources.safe_pickle import _NAMES, _OPCODES

    for opcode in pickletools.opcodes:
        code = opcode.code.encode("latin1")[0]
        assert (code in _OPCODES) != (code in _NAMES) or opcode.name == "STOP", opcode.name
        if code in _NAMES:
            assert _NAMES[code] == opcode.name


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_broken_files_are_one_line(tmp_path_factory, data):
    good = pickle.dumps({"a": np.arange(6.0).reshape(2, 3), "b": [1, "x", (2.5, None)]}, protocol=4)
    cut = data.draw(st.integers(0, len(good) - 1))
    broken = bytearray(good if data.draw(st.booleans()) else good[:cut])
    for _ in range(data.draw(st.integers(0, 3))):
        if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "broken.pkl"
    path.write_bytes(bytes(broken))
    try:
        read_pickle(path)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
    if cut and bytes(broken) == good[:cut]:
        with pytest.raises(UserError):
            read_pickle(path)


def test_missing_file(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        read_pickle(tmp_path / "none.pkl")


# A list of lists of lists: 10^12 leaves, were it written out.
LAUGHS = (
    b"]("
    + b"Vx\n" * 10
    + b"ep0\n"
    + b"".join(b"](" + b"g%d\n" % (n - 1) * 10 + b"ep%d\n" % n for n in range(1, 12))
)


def test_a_small_file_that_names_a_huge_tree(tmp_path: Path):
    path = tmp_path / "laughs.pkl"
    path.write_bytes(LAUGHS + b"t.")
    with pytest.raises(UserError):
        read_pickle(path)
    path.write_bytes(b"(" + LAUGHS + b"t.")
    assert len(read_pickle(path)) == 12  # 10^12 leaves, made once each
    deep = io.BytesIO(b"]" * 300 + b"a" * 299 + b".").getvalue()
    assert "nested too deeply" in written(tmp_path, deep)


DTYPE = b"cnumpy\ndtype\n(%stR"
TALL = b"]" * 20_000 + b"a" * 19_999
DEEP = b")" + b"\x85" * 300_000


@pytest.mark.parametrize("value", [LAUGHS + b"g11\n", TALL, DEEP], ids=["laughs", "tall", "deep"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"Vname\n\x93."),
        (b"Vmodule\n", b"\x93."),
        (b"cnumpy\ndtype\n", b"\x85R."),
        (DTYPE % b"Vf4\n" + b"(K\x03", b"NNNtb."),
        (b"cnumpy.core.multiarray\n_reconstruct\n", b"\x85R."),
        (b"c_codecs\nencode\n(Va\n", b"tR."),
        (b"}", b"Ns."),
    ],
)
def test_a_value_of_another_type_is_not_written_out(tmp_path: Path, value, before, after):
    (tmp_path / "bad.pkl").write_bytes(before + value + after)
    message = call_within(1 << 30, read_pickle, tmp_path / "bad.pkl")
    assert message.startswith(f"{tmp_path / 'bad.pkl'}, byte ")
    assert len(message) < 400


@pytest.mark.parametrize("name", [b"a" * (1 << 23), b"a\\u000ab\\u001b[2J" * 9, b"\\u202e"])
@pytest.mark.parametrize(
    "bad",
    [
        b"V%s\nVb\n\x93.",
        b"Vb\nV%s\n\x93.",
        DTYPE % b"V%s\n" + b".",
        DTYPE % b"Vf4\n" + b"(K\x03V%s\nNNNtb.",
        b"F%s\n.",
        b"I%s\n.",
        b"}V%s\nNs]a.",
    ],
)
def test_names_in_messages_are_short_and_plain(tmp_path: Path, bad, name):
    message = written(tmp_path, bad % name)
    assert message.isprintable()
    assert len(message) < 500 + len(str(tmp_path))


MIB = 1 << 20


def long_bytes() -> bytes:
    return b"\x8e" + (16 * MIB).to_bytes(8, "little") + bytes(16 * MIB) + b"q\x00"


def long_text(end: bytes = b"") -> bytes:
    return b"X" + (16 * MIB).to_bytes(4, "little") + b"a" * (16 * MIB - len(end)) + end


BOMBS = {
    "dicts": lambda: b"(" + b"}" * (31 * MIB) + b"t.",
    "marks": lambda: b"(" * (31 * MIB) + b".",
    "memo": lambda: b"N" + b"\x94" * (31 * MIB) + b".",
    "references": lambda: b"Nq\x00(" + b"h\x00" * (31 * MIB) + b"l.",
    "texts": lambda: b"(" + long_text() * 11 + b"t.",
    "wide texts": lambda: b"(" + long_text("\U0001f600".encode()) * 5 + b"t.",
    "encoded": lambda: (
        b"c_codecs\nencode\nq\x010" + long_text() + b"q\x000(" + b"h\x01h\x00\x85R" * 300 + b"t."
    ),
    "scalars": lambda: (
        b"cnumpy.core.multiarray\nscalar\nq\x010"
        + DTYPE % b"VS16777216\n"
        + b"q\x020"
        + long_bytes()
        + b"0("
        + b"h\x01h\x02h\x00\x86R" * 100_000
        + b"t."
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_ends_in_bounded_memory(tmp_path: Path, bomb):
    (tmp_path / "bad.pkl").write_bytes(BOMBS[bomb]())
    message = call_within(1 << 30, read_pickle, tmp_path / "bad.pkl")
    assert "its values take more than 512 MiB of memory" in message


def test_bytes_that_are_named_again_are_read_once(tmp_path: Path):
    path = tmp_path / "x.pkl"
    path.write_bytes(long_bytes() + b"0(" + b"h\x00" * 300 + b"t.")
    assert call_within(1 << 30, read_pickle, path) == ""


def test_keys_and_whole_numbers_are_short(tmp_path: Path):
    # Each is compared or hashed as a whole wherever it is used again.
    assert "a dict key of 5000 characters" in written(tmp_path, b"}V" + b"a" * 5000 + b"\nNs.")
    whole = b"\x8b" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20)
    assert "a whole number of 1048576 bytes" in written(tmp_path, whole + b".")


def test_an_old_array_that_is_too_large_is_told_the_protocol(tmp_path: Path):
    path = tmp_path / "old.pkl"
    path.write_bytes(pickle.dumps(np.zeros(5 * MIB, np.float32), protocol=2))
    with pytest.raises(UserError, match=r"a text of 20971520 bytes .* write .* with protocol 4"):
        read_pickle(path)
