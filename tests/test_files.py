import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sam_bloodcell.files import (
    allocate,
    as_path,
    inside,
    make_folder,
    paths_beside,
    replacing,
    replacing_files,
    write_text,
)


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "scores.csv"
    write_text(path, "before")

    def dies_halfway():
        with replacing(path) as draft:
            draft.write_text("half")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        dies_halfway()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_longest_name_that_a_file_may_have_is_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".csv")
    write_text(path, "whole")
    assert path.read_text() == "whole"


def test_text_that_is_not_utf8_is_escaped(tmp_path):
    write_text(tmp_path / "a.csv", os.fsdecode(b"K\xf6ln"))
    assert (tmp_path / "a.csv").read_text("utf-8") == r"K\udcf6ln"


def test_a_path_is_text_bytes_or_a_path():
    assert as_path(b"a.png", "out") == as_path("a.png", "out") == as_path(Path("a.png"), "out")
    with pytest.raises(TypeError, match=r"Got out=None but expected a path\. Fix: "):
        as_path(None, "out")


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    for content in ("old", "new"):
        with replacing(tmp_path / "group.zarr") as draft:
            draft.mkdir()
            (draft / content).touch()
    assert [path.name for path in (tmp_path / "group.zarr").iterdir()] == ["new"]


@pytest.mark.parametrize("write", [lambda path: write_text(path, "x"), lambda path: make_folder(path)])
def test_what_cannot_be_written_names_the_file_and_the_fix(tmp_path, write):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"not written\. Fix: free space there.*file/inside") as caught:
        write(tmp_path / "file" / "inside")
    assert caught.value.errno == errno.ENOTDIR


def test_an_error_of_the_tidying_hides_no_error_of_the_writing(tmp_path, monkeypatch):
    """In a folder that another user closed, not even looking for the draft is allowed."""

    def write():
        with replacing(tmp_path / "a"):
            monkeypatch.setattr(Path, "is_dir", closed)
            raise PermissionError(errno.EACCES, "Permission denied")

    def closed(self):
        raise PermissionError(errno.EACCES, "closed")

    with pytest.raises(PermissionError, match=r"Permission denied, so it was not written\. Fix: "):
        write()


@pytest.mark.parametrize("name", ["../b/1.png", "/elsewhere/1.png", "a/../../1.png", "..", "/"])
def test_manifests_cannot_lead_out(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of the folder"):
        inside(tmp_path / "cells", name)


def test_manifests_may_name_what_lies_inside_and_links(tmp_path):
    (tmp_path / "link").symlink_to("/")
    assert inside(tmp_path, "a/../1 é.png") == tmp_path / "1 é.png"
    assert inside(tmp_path, str(tmp_path / "a" / "1.png")) == tmp_path / "a" / "1.png"
    assert inside(tmp_path, "link/1.png") == tmp_path / "link" / "1.png"


def test_a_wider_root_lets_paths_lead_further(tmp_path):
    csv = tmp_path / "tables" / "cells.csv"
    with pytest.raises(ValueError, match=r"cells\.csv' row 1: '.*' leads out .* root=\.\.\."):
        paths_beside(csv, ["1.png", "../images/2.png"])
    assert paths_beside(csv, ["", "../images/2.png"], tmp_path) == ["", str(tmp_path / "images" / "2.png")]


FULL = """
import sys
from pathlib import Path
import numpy as np
from sam_bloodcell import files
path = Path(sys.argv[1]) / "big.npy"
np.lib.format.open_memmap(path, "w+", np.float32, (1 << 20,)).flush()
try:
    files.allocate(path)
except OSError as exc:
    print(exc)
"""


def test_a_sparse_file_that_will_not_fit_is_told_before_it_is_written_to(on_full_disk):
    assert "No space left on device, so it was not written. Fix: free space" in on_full_disk(FULL)


def test_allocated_space_stays_as_it_was(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 20)
    allocate(tmp_path / "a")
    assert (tmp_path / "a").stat().st_blocks * 512 >= 1 << 20
    assert (tmp_path / "a").read_bytes() == bytes(1 << 20)


def test_file_systems_that_cannot_set_space_aside_are_used_without(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    (tmp_path / "a").write_bytes(b"abc")
    monkeypatch.setattr("os.posix_fallocate", unsupported, raising=False)
    allocate(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"abc"


@pytest.fixture
def on_full_disk(tmp_path):
    """Return a runner of Python code on a disk of 1 MB, whose folder is the code's argument."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs '{disk}'"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no small disk: mounting one needs root")

    def run(code):
        script = tmp_path / "code.py"
        script.write_text(code)
        command = f"{mount} && '{sys.executable}' -W ignore '{script}' '{disk}' && ls -A '{disk}'"
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, timeout=120, check=False,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_files_that_belong_together_are_replaced_together_or_not_at_all(tmp_path):
    def write_new(*paths):
        for path in paths:
            path.write_text("new")

    for name in ("a", "b", "own"):
        (tmp_path / name).write_text("old")
    with pytest.raises(FileNotFoundError), replacing_files(tmp_path) as draft:
        write_new(draft / "a", draft / "missing" / "b")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a": "old", "b": "old", "own": "old"}
    with replacing_files(tmp_path) as draft:
        write_new(draft / "a", draft / "b")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a": "new", "b": "new", "own": "old"}
