"""Files are whole or absent."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from univa.errors import UserError
from univa.utils.files import (
    atomic_folder,
    atomic_path,
    atomic_write_json,
    atomic_write_text,
    check_writable,
    recover_folder,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replaces_when_whole(tmp_path: Path):
    target = tmp_path / "new" / "scores.json"
    atomic_write_json(target, {"é": 1})
    atomic_write_json(target, {"é": 2})
    assert json.loads(target.read_text(encoding="utf-8")) == {"é": 2}
    assert names(target.parent) == ["scores.json"]


def test_failure_leaves_the_old_file(tmp_path: Path):
    target = tmp_path / "table.csv"
    atomic_write_text(target, "old\r\n")

    def fail():
        with atomic_path(target) as temporary:
            assert temporary.suffix == ".csv"
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_bytes() == b"old\r\n"
    assert names(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(value, tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        atomic_write_json(tmp_path / "a.json", {"loss": value})
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(UserError, match="this is a folder"):
        atomic_write_text(tmp_path, "")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make this folder"):
        atomic_write_text(tmp_path / "file" / "a.json", "")


def test_folder_is_replaced_when_whole(tmp_path: Path):
    target = tmp_path / "last"
    for content in ("one", "two"):
        with atomic_folder(target) as temporary:
            (temporary / "a").write_text(content)
    assert (target / "a").read_text() == "two"
    assert names(tmp_path) == ["last"]


def test_failure_leaves_the_old_folder(tmp_path: Path):
    target = tmp_path / "last"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("old")

    def fail():
        with atomic_folder(target) as temporary:
            (temporary / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (target / "a").read_text() == "old"
    assert names(tmp_path) == ["last"]


def test_recovers_from_a_crash_between_the_renames(tmp_path: Path):
    assert not recover_folder(tmp_path / "last")
    old = tmp_path / "last.old"
    old.mkdir()
    assert recover_folder(tmp_path / "last")
    assert names(tmp_path) == ["last"]
    old.mkdir()  # the crash came after both renames
    assert recover_folder(tmp_path / "last")
    assert names(tmp_path) == ["last"]


def test_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")  # refuses root, too
    (tmp_path / "out.tmp").write_text("")  # in the way of the temporary folder
    for name in ("loop/scorer", "out"):
        trial = atomic_folder(tmp_path / name)
        with pytest.raises(UserError, match="cannot make this folder: ") as caught, trial:
            pass
        assert "\n" not in str(caught.value)


def test_trial_leaves_everything_as_it_was(tmp_path: Path):
    target = tmp_path / "scores.json"
    check_writable(target)
    assert names(tmp_path) == []
    target.write_text("old")
    check_writable(target)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["scores.json"]
    with pytest.raises(UserError, match="this is a folder"):
        check_writable(tmp_path)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_of_the_umask(tmp_path: Path, mask, mode):
    old = os.umask(mask)
    try:
        with atomic_path(tmp_path / "file.safetensors") as path:
            save_file({"a": torch.zeros(1)}, path)
        with atomic_folder(tmp_path / "folder") as path:
            save_file({"a": torch.zeros(1)}, path / "file.safetensors")
    finally:
        os.umask(old)
    for file in tmp_path.rglob("*.safetensors"):
        assert file.stat().st_mode & 0o777 == mode, file
