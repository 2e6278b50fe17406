"""Downloads of public data: resumed, checked, kept."""

import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from ..extras import require
from ..files import inside, make_folder


def data_home(folder: str | os.PathLike | None = None) -> Path:
    """Return the folder that downloads go to, made if need be.

    Parameters
    ----------
    folder : path, optional
        Default the environment variable ``SAM_BLOODCELL_HOME``, else the user's cache folder.
    """
    chosen = folder or os.environ.get("SAM_BLOODCELL_HOME") or _pooch().os_cache("sam-bloodcell")
    return make_folder(Path(chosen).expanduser())


def fetch_file(
    url: str, digest: str | None = None, *, name: str | None = None, folder: str | os.PathLike | None = None,
    verbose: int = 1,
) -> Path:  # fmt: skip
    """Download a file once; an interrupted download goes on where it was.

    Parameters
    ----------
    url : str
        http or https.
    digest : str, optional
        "sha256:..." or "md5:..." of the file. Without it the first download is trusted, and a warning gives its
        SHA-256 to pass from then on.
    name : str, optional
        File name; default the last part of the URL.
    folder : path, optional
        As in `data_home`.
    verbose : int, default=1
        Above 0, a progress bar.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        If it is no http address, the name leads out of the folder, or the file has another digest; it is not kept.
    OSError
        If it cannot be downloaded; what came is kept for the next call.
    ImportError
        If pooch is not installed.
    """
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise ValueError(f"Got url={url!r} but expected one that starts with http:// or https://.")
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
        warnings.warn(f"The digest of '{url}' is not known here; what came is trusted. {fix}", stacklevel=2)
    return path


def _resume(url: str, output_file: Any, pooch: Any, *, part: Path, quiet: bool) -> None:
    """Download for pooch; what came is kept in a file beside, and the server is asked for the rest."""
    import requests
    from tqdm.auto import tqdm

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
        if answer.status_code != 416:  # 416: all of it is here
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
                raise OSError(f"'{url}' broke off after {have} of {expected} bytes. Fix: call again, it goes on there.")
    part.replace(output_file)


def _pooch() -> Any:
    return require("pooch", extra="fetch", purpose="Downloads need pooch")
