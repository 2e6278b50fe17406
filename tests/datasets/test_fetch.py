import hashlib

import pytest

from sam_bloodcell.datasets import data_home, fetch_file

BODY = bytes(range(256)) * 4096
DIGEST = "sha256:" + hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def url(file_server):
    (file_server.folder / "file.bin").write_bytes(BODY)
    return f"{file_server.url}/file.bin"


def test_a_file_is_fetched_once_and_checked(url, file_server, tmp_path):
    for _ in range(2):
        path = fetch_file(url, DIGEST, folder=tmp_path / "home", verbose=0)
    assert path.read_bytes() == BODY
    assert file_server.requests == ["/file.bin"]


@pytest.mark.fault
def test_a_broken_download_goes_on_where_it_was(url, file_server, tmp_path):
    file_server.break_off = True
    with pytest.raises(OSError, match=r"(?i)broke|incomplete"):
        fetch_file(url, DIGEST, folder=tmp_path / "home", verbose=0)
    part = tmp_path / "home" / "file.bin.part"
    arrived = part.stat().st_size
    assert 0 < arrived < len(BODY)
    assert fetch_file(url, DIGEST, folder=tmp_path / "home", verbose=0).read_bytes() == BODY
    assert file_server.ranges == [arrived]
    assert not part.exists()


def test_a_whole_part_is_not_asked_for_again(url, file_server, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file.bin.part").write_bytes(BODY)
    assert fetch_file(url, DIGEST, folder=tmp_path / "home", verbose=0).read_bytes() == BODY
    assert file_server.ranges == [len(BODY)]


def test_a_wrong_file_is_not_kept(url, tmp_path):
    with pytest.raises(ValueError, match="hash"):
        fetch_file(url, "sha256:" + "0" * 64, folder=tmp_path / "home", verbose=0)
    assert not list((tmp_path / "home").iterdir())


def test_without_a_digest_the_first_one_is_told(url, file_server, tmp_path):
    with pytest.warns(UserWarning, match=DIGEST):
        fetch_file(url, folder=tmp_path / "home", verbose=0)
    fetch_file(url, folder=tmp_path / "home", verbose=0)
    assert len(file_server.requests) == 1


def test_a_missing_file_is_an_os_error(file_server, tmp_path):
    with pytest.raises(OSError, match="404"):
        fetch_file(f"{file_server.url}/none.bin", DIGEST, folder=tmp_path / "home", verbose=0)


def test_data_home_by_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("SAM_BLOODCELL_HOME", str(tmp_path / "there"))
    assert data_home() == tmp_path / "there"
    assert (tmp_path / "there").is_dir()
