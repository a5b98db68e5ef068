import csv
import re

import pytest
import torch

from univa.errors import UserError
from univa.va.table import TableFormat, read_va_table

HEADER = "id,split,V,A,text\n"
ROWS = "1,train,1,5,first\n2,dev,3,3,second\n3,test,4,2.5,third\n"


def _read(tmp_path, content, **options):
    path = tmp_path / "scores.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_va_table(path, TableFormat(**options))


def test_rows_by_split_rescaled(tmp_path):
    splits = _read(tmp_path, HEADER + ROWS)
    assert splits["train"].items == ("first",)
    assert splits["train"].coordinates.tolist() == [[-1.0, 1.0]]
    assert splits["dev"].coordinates.tolist() == [[0.0, 0.0]]
    assert splits["test"].coordinates.tolist() == [[0.5, -0.25]]
    assert splits["test"].coordinates.dtype == torch.float32


def test_other_columns_splits_and_range(tmp_path):
    content = (
        'sentence,pleasure,energy,fold\nyes,0.25,1,fit\nno,0,0.5,choose\n"two\nlines",1,0,report\n'
    )
    splits = _read(
        tmp_path,
        content,
        text_column="sentence",
        valence_column="pleasure",
        arousal_column="energy",
        split_column="fold",
        train_split="fit",
        dev_split="choose",
        test_split="report",
        value_range=(0.0, 1.0),
    )
    assert splits["train"].coordinates.tolist() == [[-0.5, 1.0]]
    assert splits["test"].items == ("two\nlines",)


def test_emobank_against_the_csv_module(shared):
    path = shared / "data" / "emobank.csv"
    splits = read_va_table(path)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sum(map(len, splits.values())) == len(rows)
    for role, split in splits.items():
        own = [row for row in rows if row["split"] == role]
        assert list(split.items) == [row["text"].strip() for row in own]
        expected = torch.tensor([[float(row["V"]), float(row["A"])] for row in own])
        torch.testing.assert_close(split.coordinates, (expected - 3) / 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,split,V,text\n1,train,3,a\n", r"row 1: no column 'A'.*; the columns are id, split, V"),
        ("", r"the file is empty; give the path of a CSV file"),
        (HEADER + ROWS + "4,train,nan,3,x\n", r"row 5: column 'V' is 'nan'; write a finite"),
        (HEADER + "1,train,inf,3,x\n" + ROWS, r"row 2: column 'V' is 'inf'; write a finite"),
        (HEADER + ROWS + "4,train,3,,x\n", r"row 5: column 'A' is '', not a number"),
        (HEADER + ROWS + "4,train,3,6,x\n", r"row 5: column 'A' is 6, outside 1 to 5"),
        (HEADER + ROWS + '4,train,3,3,"a\nb"\n5,dev,0,3,x\n', r"row 7: column 'V' is 0, outside"),
        (HEADER + ROWS + "4,train,3,3,   \n", r"row 5: column 'text' is empty"),
        (HEADER + ROWS + "4,valid,3,3,x\n", r"row 5: split 'valid' in column 'split' is none"),
        (HEADER + ROWS + "4,train,3,3\n", r"row 5: 4 fields but 5 columns"),
        (HEADER + ROWS + "4,train,3,3,a,b\n", r"row 5: 6 fields but 5 columns"),
        (HEADER + "1,train,3,3,x\n2,dev,3,3,y\n", r"no row has 'test' in column 'split', so the"),
        (HEADER, r"so the train split is empty"),
        (HEADER.encode() + b"1,train,3,3,caf\xe9\n", r"row 2: not UTF-8 text"),
    ],
)
def test_bad_table_is_one_clear_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        _read(tmp_path, content)
    assert "scores.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_table(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}/none.csv: no such file")):
        read_va_table(tmp_path / "none.csv")


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (5.0, 1.0), (0.0, float("inf"))])
def test_bad_range(bounds):
    with pytest.raises(UserError, match=r"value_range: .* is no range"):
        TableFormat(value_range=bounds)


def test_equal_split_names():
    with pytest.raises(UserError, match="train_split, dev_split and test_split must differ"):
        TableFormat(dev_split="test")
