"""The Hub's real client against a Hub on 127.0.0.1: what comes, what goes, and what each failure says."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import huggingface_hub
import pytest
from tests.hub_server import COMMIT

from sam_bloodcell.exceptions import WeightsUnavailableError
from sam_bloodcell.weights import hub

FILE = "model.safetensors"
CONTENT = bytes(range(256)) * 400

# Tries to fetch (repo, revision, token, local_files_only) one after the other; prints paths and errors.
TRIES = """
import json, sys, time
from sam_bloodcell.exceptions import WeightsUnavailableError
from sam_bloodcell.weights import hub
time.sleep = lambda seconds: None
said = []
for repo, revision, token, local in json.loads(sys.argv[1]):
    try:
        path = hub.fetch(repo, "model.safetensors", revision, token=token, local_files_only=local)
        whole = hub.digest_of(path) == hub.sha256(path)
        said.append([str(path), hub.commit_of(path), path.stat().st_size, whole])
    except WeightsUnavailableError as exc:
        said.append(str(exc))
print(json.dumps(said))
"""


@pytest.fixture
def tries(hub_server, in_subprocess):
    (hub_server.folder("lab/small") / FILE).write_bytes(CONTENT)

    def run(*attempts, **env):
        wanted = json.dumps([(*attempt, None, None, False)[:3] + (attempt[3:] or (False,)) for attempt in attempts])
        return json.loads(in_subprocess(TRIES, wanted, **{"HF_ENDPOINT": hub_server.url} | env))

    return run


def test_a_file_is_fetched_once_and_then_cached(tries, hub_server):
    first, again = tries(("lab/small", "v1"), ("lab/small", COMMIT))
    assert first == again
    assert first[1:] == [COMMIT, len(CONTENT), True]
    assert f"GET /lab/small/resolve/v1/{FILE}" in hub_server.asked
    before = len(hub_server.asked)
    assert tries(("lab/small", "v1"), HF_HUB_OFFLINE="1") == [first]
    assert tries(("lab/small", "v1", None, True)) == [first]
    assert tries(("lab/small", COMMIT), HF_ENDPOINT="http://127.0.0.1:9") == [first]
    assert len(hub_server.asked) == before


@pytest.mark.fault
def test_two_processes_on_one_hub_cache_fetch_a_file_once(tries, hub_server):
    (hub_server.folder("lab/large") / FILE).write_bytes(CONTENT * (1 + (8 << 20) // len(CONTENT)))
    with ThreadPoolExecutor(2) as pool:
        (one,), (other,) = pool.map(tries, [("lab/large", "v1")] * 2)
    assert one == other
    assert one[-1] is True
    assert hub_server.asked.count(f"GET /lab/large/resolve/v1/{FILE}") == 1


def test_each_refusal_says_what_to_do(tries, hub_server):
    hub_server.private["lab/secret"] = "hf_right"
    (hub_server.folder("lab/secret") / FILE).write_bytes(CONTENT)
    hub_server.folder("lab/empty")
    absent, revision, empty, private, opened, local, name = tries(
        ("lab/absent",),
        ("lab/small", "absent"),
        ("lab/empty",),
        ("lab/secret",),
        ("lab/secret", None, "hf_right"),
        ("lab/never", None, None, True),
        ("not a name!",),
    )
    assert f"{FILE} of 'lab/absent' (its newest revision)" in absent
    assert "Fix: check the name 'lab/absent', or, if it is private, set HF_TOKEN, pass token=... or run" in absent
    assert "(revision absent)" in revision
    assert "has no such revision. Fix: check the commit, tag or branch" in revision
    assert "has no such file. Fix: check that it holds weights" in empty
    assert "if it is private, set HF_TOKEN, pass token=... or run 'hf auth login'." in private
    assert opened[2] == len(CONTENT)
    assert "only the cache was searched. Fix: run hf download lab/never once with network" in local
    assert "Fix: pass owner/name" in name


def test_a_token_in_the_environment_opens_a_private_repo(tries, hub_server):
    hub_server.private["lab/small"] = "hf_right"
    assert tries(("lab/small",), HF_TOKEN="hf_right")[0][2] == len(CONTENT)


@pytest.mark.newest
def test_no_network_and_offline_mode_name_the_way_out(tries):
    (unreachable,) = tries(("lab/small",), HF_ENDPOINT="http://127.0.0.1:9")
    assert "no connection (ConnectError). Fix: check the network, then run hf download lab/small once" in unreachable
    (offline,) = tries(("lab/small",), HF_HUB_OFFLINE="1")
    assert "offline mode is on (HF_HUB_OFFLINE). Fix: run hf download lab/small once with network" in offline


@pytest.mark.fault
def test_no_half_file_is_used_after_a_cut_connection(tries, hub_server):
    hub_server.cut.add(FILE)
    for said in tries(("lab/small", "v1"), ("lab/small", "v1")):
        assert isinstance(said, str) or said[2:] == [len(CONTENT), True]
    assert not isinstance(said, str)
    assert not hub_server.cut


def test_a_file_with_another_digest_is_deleted(tries, hub_server, tmp_path):
    hub_server.damaged.add(FILE)
    (said,) = tries(("lab/small", "v1"))
    assert "is damaged: its SHA-256 is" in said
    assert "It was deleted. Fix: fetch it again" in said
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    hub_server.damaged.clear()
    assert tries(("lab/small", "v1"))[0][2:] == [len(CONTENT), True]


# The client's own settings, with its transfer from Xet storage replaced: the content is the second argument's.
FROM_XET = """
import sys
from pathlib import Path
import huggingface_hub.file_download as client
from sam_bloodcell.exceptions import WeightsUnavailableError
from sam_bloodcell.weights import hub

content = Path(sys.argv[1]).read_bytes()
client.xet_get = lambda *, incomplete_path, **_: Path(incomplete_path).write_bytes(content)
try:
    path = hub.fetch("lab/small", "model.safetensors", "v1")
    print(path.resolve().name, hub.digest_of(path))
except WeightsUnavailableError as exc:
    print(exc)
"""


@pytest.mark.slow
def test_a_file_from_xet_storage_is_checked_by_its_sha256(hub_server, in_subprocess, tmp_path):
    """The cache may keep such a file under its Xet hash, which looks like a SHA-256 and is none."""
    hub_server.xet_hash = "c0" * 32
    (hub_server.folder("lab/small") / FILE).write_bytes(CONTENT)
    (tmp_path / "whole").write_bytes(CONTENT)
    (tmp_path / "other").write_bytes(CONTENT[::-1])
    settings = {"HF_ENDPOINT": hub_server.url, "HF_HUB_DISABLE_XET": "0"}
    for _ in range(2):
        said = in_subprocess(FROM_XET, tmp_path / "other", **settings)
        assert "is damaged: its SHA-256 is" in said
        assert "It was deleted. Fix: fetch it again" in said
    expected = hashlib.sha256(CONTENT).hexdigest()
    for _ in range(2):
        name, digest = in_subprocess(FROM_XET, tmp_path / "whole", **settings).split()
        assert name in (hub_server.xet_hash, expected)
        assert digest == expected


PUSH = """
import shutil, sys
from sam_bloodcell.exceptions import WeightsUnavailableError
from sam_bloodcell.weights import hub
def save(folder):
    shutil.copytree(sys.argv[1], folder, dirs_exist_ok=True)

for token in ("hf_write", None):
    try:
        print(hub.push(save, "lab/new", revision=None, private=None, token=token))
    except WeightsUnavailableError as exc:
        print(exc)
"""


@pytest.mark.newest
def test_a_folder_is_pushed_with_a_token_only(hub_server, in_subprocess, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / FILE).write_bytes(CONTENT)
    (folder / "README.md").write_text("---\nlibrary_name: sam-bloodcell\n---\n")
    url, refused = in_subprocess(PUSH, folder, HF_ENDPOINT=hub_server.url).splitlines()
    assert url == f"{hub_server.url}/lab/new/commit/{COMMIT}"
    for name in (FILE, "README.md"):
        assert (hub_server.folder("lab/new") / name).read_bytes() == (folder / name).read_bytes()
    assert "could not be pushed to 'lab/new'" in refused
    assert "access was refused (401). Fix: set HF_TOKEN, pass token=... or run 'hf auth login', with" in refused
    assert "a token that may write to the repo." in refused


@pytest.mark.parametrize("status", [401, 403])
def test_a_download_needs_a_token_that_may_read(monkeypatch, status):
    def refuse(*args, **more):
        error = OSError("no")
        error.response = SimpleNamespace(status_code=status)
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    said = rf"access was refused \({status}\). Fix: set HF_TOKEN, .* with a token that may read the repo\."
    with pytest.raises(WeightsUnavailableError, match=said):
        hub.fetch("lab/small", FILE)


def test_digest_and_commit_of_a_local_file(tmp_path):
    path = tmp_path / FILE
    path.write_bytes(b"abc")
    assert hub.digest_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hub.commit_of(path) is None
