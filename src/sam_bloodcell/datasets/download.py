"""Downloads of public data, which resume if interrupted, are checked and cached."""

import os
from functools import partial
from pathlib import Path
from typing import Any

from ..exceptions import warn_caller
from ..extras import require, tqdm
from ..files import inside, make_folder


def data_home(folder: str | os.PathLike | None = None) -> Path:
    """Return the folder for downloads, and create it if it is missing.

    Parameters
    ----------
    folder : path, optional
        The folder. By default, it is the environment variable ``SAM_BLOODCELL_HOME``, or else the user's cache folder.

    Returns
    -------
    pathlib.Path
        The folder.
    """
    chosen = folder or os.environ.get("SAM_BLOODCELL_HOME") or _pooch().os_cache("sam-bloodcell")
    return make_folder(Path(chosen).expanduser())


def fetch_file(
    url: str, digest: str | None = None, *, name: str | None = None, folder: str | os.PathLike | None = None,
    verbose: int = 1,
) -> Path:  # fmt: skip
    """Download a file once; an interrupted download resumes.

    Parameters
    ----------
    url : str
        Address of the file, http or https.
    digest : str, optional
        "sha256:..." or "md5:..." of the file. Without it, the first download is trusted, and a warning gives its
        SHA-256, which you can pass from then on.
    name : str, optional
        File name (default: the last part of the URL).
    folder : path, optional
        Folder for the file, as in `data_home`.
    verbose : int, default=1
        If above 0, show a progress bar.

    Returns
    -------
    pathlib.Path
        The downloaded file.

    Raises
    ------
    ValueError
        If `url` is not an http address, `name` leads out of the folder, or the file has another digest. A file with
        another digest is not kept.
    OSError
        If the file cannot be downloaded. The part that arrived is kept for the next call.
    ImportError
        If pooch is not installed.
    """
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        fix = "Fix: pass the full address of the file."
        raise ValueError(f"Got url={url!r} but expected one that starts with http:// or https://. {fix}")
    pooch = _pooch()
    home = data_home(folder)
    name = name or url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
    inside(home, name)
    if digest is None and (home / name).is_file():
        return home / name
    downloader = partial(_resume, part=home / f"{name}.part", quiet=verbose <= 0)
    path = Path(pooch.retrieve(url, digest, name, home, downloader=downloader))
    if digest is None:
        fix = f"Fix: from now on pass digest='sha256:{pooch.file_hash(str(path))}'."
        warn_caller(f"The digest of '{url}' is not known, so the downloaded file is trusted. {fix}")
    return path


def _resume(url: str, output_file: Any, pooch: Any, *, part: Path, quiet: bool) -> None:
    """Download for pooch: a file next to the target keeps what arrived, and the server is asked for the rest."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
        if answer.status_code != 416:  # 416: the file is complete
            answer.raise_for_status()
            have = have if answer.status_code == 206 else 0
            expected = have + int(answer.headers.get("Content-Length", 0))
            bar = tqdm(desc=part.stem, initial=have, total=expected or None, unit="B", unit_scale=True, disable=quiet)
            with bar, part.open("ab" if have else "wb") as file:
                for chunk in answer.iter_content(1 << 18):
                    file.write(chunk)
                    bar.update(len(chunk))
            have = part.stat().st_size
            if have < expected:
                raise OSError(f"'{url}' broke off after {have} of {expected} bytes. Fix: call again to resume.")
    part.replace(output_file)


def _pooch() -> Any:
    return require("pooch", extra="fetch", purpose="Downloads need pooch")
