"""Downloads from the Hugging Face Hub and uploads to it, with errors that say what to do."""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..exceptions import WeightsUnavailableError
from ..files import how_to_find


def fetch(
    repo: str, filename: str, revision: str | None = None, *, token: str | None = None, local_files_only: bool = False,
    command: str | None = None,
) -> Path:  # fmt: skip
    """Return a repo's file in the Hub's local cache; download it if missing. A cached commit needs no network.

    The client resumes interrupted downloads and checks their size. For large files, the Hub announces a SHA-256, which
    is compared with that of a new download. An error names the `command` that downloads the file, by default ``hf
    download``.
    """
    from huggingface_hub import hf_hub_download

    start = time.time()
    try:
        path = Path(hf_hub_download(repo, filename, revision=revision, token=token, local_files_only=local_files_only))
    except Exception as exc:  # errors of the client, of its HTTP library and of the file system are all treated alike
        at = f"revision {revision}" if revision else "its newest revision"
        command = command or f"hf download {repo}" + (f" --revision {revision}" if revision else "")
        raise WeightsUnavailableError(
            f"{filename} of '{repo}' ({at}) is neither cached nor can it be fetched from the Hub: "
            f"{_reason(exc, repo, command)}"
        ) from exc
    _check_download(path, start, repo, filename)
    return path


def fetch_first(repo: str, filenames: Sequence[str], revision: str | None = None, **access: Any) -> Path:
    """Fetch the first of these files that a repo has; if it has none, the error is about the first."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    first, *others = filenames
    try:
        return fetch(repo, first, revision, **access)
    except WeightsUnavailableError as exc:
        error = exc
    if others and isinstance(error.__cause__, EntryNotFoundError):
        # If the Hub could not be reached, it is not asked again, but another file may be in the cache.
        unreached = isinstance(error.__cause__, LocalEntryNotFoundError)
        with suppress(WeightsUnavailableError):
            return fetch_first(repo, others, revision, **access | ({"local_files_only": True} if unreached else {}))
    raise error


def locate_folder(
    source: str | os.PathLike, kind: str, filenames: Sequence[str], revision: str | None = None, *,
    token: str | None = None, local_files_only: bool = False,
) -> Path:  # fmt: skip
    """Return the folder that contains these files: a local one, or one in the Hub's cache after a download.

    All files of a repo come from the same commit, even if someone pushes meanwhile. `kind` names the expected content
    in messages.
    """
    folder = Path(source)
    if not folder.is_dir():
        if "/" not in os.fspath(source):  # every repo has an owner, so a name without an owner is a folder
            found = f"Got '{source}', which is neither a folder nor a repo id with an owner, but expected a {kind}"
            raise WeightsUnavailableError(f"{found}. Fix: check the path and the working folder.{how_to_find(folder)}")
        for name in filenames:
            path = fetch(str(source), name, revision, token=token, local_files_only=local_files_only)
            revision, folder = commit_of(path), path.parent
        return folder
    missing = [name for name in filenames if not (folder / name).is_file()]
    if missing:
        raise WeightsUnavailableError(
            f"'{source}' is not the folder of a saved {kind}: it lacks {', '.join(missing)}. "
            "Fix: pass a folder made by save_pretrained."
        )
    return folder


def commit_of(path: Path) -> str | None:
    """Return the commit to which a file in the Hub's cache belongs; None for other files."""
    folder = path.parent
    return folder.name if folder.parent.name == "snapshots" else None


def digest_of(path: Path) -> str:
    """Return a file's SHA-256; in the Hub's cache, it is the name of a large file."""
    if announced := _announced(path):
        return announced
    stat = path.stat()
    if time.time() - stat.st_mtime < 2:  # if a file is this new, a change might not be visible in its time
        return sha256(path)
    return _sha256_once(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=32)
def _sha256_once(path: Path, modified: int, size: int) -> str:
    """Hash a file once per size and time of change, because a search fits the same weights repeatedly."""
    return sha256(path)


def sha256(path: Path) -> str:
    """Hash a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def push(
    save: Callable[..., Path], repo: str, *, revision: str | None, private: bool | None, token: str | None, **card: Any
) -> str:
    """Save files into a folder, upload them as one commit to a model repo (created if missing), and return its URL."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save(folder, **card)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            if revision:
                api.create_branch(repo, branch=revision, exist_ok=True)
            message = "Upload by sam-bloodcell"
            return str(api.upload_folder(repo_id=repo, folder_path=folder, revision=revision, commit_message=message))
        except Exception as exc:  # as in fetch
            raise WeightsUnavailableError(f"The files could not be pushed to '{repo}': {_reason(exc, repo)}") from exc


def _announced(path: Path) -> str | None:
    """Return the SHA-256 that the Hub announced for a file in its cache, if it is a large one.

    The cache links a file to a blob whose name is the SHA-256. This blob may link to another one, named by another kind
    of hash.
    """
    if commit_of(path) is None or not path.is_symlink():
        return None
    name = path.readlink().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


def _check_download(path: Path, start: float, repo: str, filename: str) -> None:
    announced = _announced(path)
    if announced is None or path.stat().st_mtime < start - 2:
        return
    found = sha256(path)
    if found != announced:
        # The content is deleted first. A blob that is left, under any of its names, would be linked again instead of
        # fetched.
        for stored in (path.resolve(), path.parent / path.readlink(), path):
            stored.unlink(missing_ok=True)
        raise WeightsUnavailableError(
            f"{filename} of '{repo}' is damaged: its SHA-256 is {found[:12]}..., but the Hub announced "
            f"{announced[:12]}.... It was deleted. Fix: fetch it again; if it is damaged again, report it to its owner."
        )


def _reason(exc: Exception, repo: str, command: str | None = None) -> str:
    """Describe the cause of a failure, and the fix; `command` downloads the requested file into the cache."""
    from huggingface_hub import errors

    cause = exc.__cause__ or exc
    once = f"run {command} once with network, or pass a local file or folder." if command else "try again."
    log_in = "set HF_TOKEN, pass token=... or run 'hf auth login'"
    access = "read" if command else "write to"
    status = getattr(getattr(exc, "response", None), "status_code", None)
    if isinstance(exc, errors.GatedRepoError):
        return f"the repo is gated. Fix: ask for access on its page, then {log_in}."
    if isinstance(exc, errors.RepositoryNotFoundError):
        return f"there is no such repo, or it is private. Fix: check the name '{repo}', or, if it is private, {log_in}."
    if isinstance(exc, errors.RevisionNotFoundError):
        return "the repo has no such revision. Fix: check the commit, tag or branch."
    missing_locally = isinstance(exc, errors.LocalEntryNotFoundError)
    if isinstance(exc, errors.EntryNotFoundError) and not missing_locally:
        return "the repo has no such file. Fix: check that it holds weights of this kind."
    if isinstance(exc, errors.HFValidationError):
        return f"{exc} Fix: pass owner/name."
    if status in (401, 403):
        return f"access was refused ({status}). Fix: {log_in}, with a token that may {access} the repo."
    if isinstance(cause, errors.OfflineModeIsEnabled) or os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return f"offline mode is on (HF_HUB_OFFLINE). Fix: {once}"
    if missing_locally and cause is exc:
        return f"only the cache was searched. Fix: {once}"
    if missing_locally:
        return f"no connection ({type(cause).__name__}). Fix: check the network, then {once}"
    return f"{type(cause).__name__}: {cause}. Fix: try again."
