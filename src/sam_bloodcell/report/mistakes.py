"""The wrong answers of a report, grouped by confusion and direction, each with a small picture."""

import base64
import io
import os
from collections.abc import Callable
from functools import cache
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ..evaluation import BenchmarkResult
from ..evaluation.benchmark import images_of
from ..images.reading import load_rgb

MAX_PICTURES, MAX_NAMES = 1000, 5000  # about 4 MB of pictures, and half a MB of names
# Shown at first: pictures of a direction (a row on paper), directions of a group, and groups. A click opens the rest.
MAX_OPEN, MAX_DIRECTIONS, MAX_GROUPS = 8, 6, 20
_SIDE, _QUALITY = 128, 80  # pixels of the longer side, and JPEG's quality


class CellNames:
    """The names of a benchmark's cells: a file's name and its path below `folder`, or the number of the row.

    Attributes
    ----------
    folder : str
        The folder that contains the files of all cells, or "" if there are no files or they share no folder.
    """

    def __init__(self, result: BenchmarkResult) -> None:
        paths = result.cells.get("paths")
        self._paths = None if paths is None else [str(path) for path in paths]
        self.folder = _common_folder(self._paths or [])

    def __call__(self, row: int) -> tuple[str, str]:
        """Return a cell's short name and its full one."""
        if self._paths is None:
            return f"row {row}", f"row {row}"
        path = PurePath(self._paths[row])
        return path.name, str(path.relative_to(self.folder) if self.folder else path)


def group_mistakes(
    result: BenchmarkResult, mistakes: pd.DataFrame, names: CellNames
) -> tuple[list[dict[str, Any]], list[str]]:
    """Group wrong answers by class and answer, then by direction, and draw the most confident ones.

    Parameters
    ----------
    result : BenchmarkResult
    mistakes : pandas.DataFrame
        A row per wrong answer, the most confident first.
    names : CellNames

    Returns
    -------
    groups : list of dict
        The most common confusion first. Each has ``label``, ``predicted``, ``n`` and ``directions``; each of these has
        ``train``, ``test``, ``n``, ``cells`` with a picture and ``names`` of cells without one.
    failures : list of str
        Names of the images that cannot be read, and the reasons.
    """
    draw = _painter(result)
    table = mistakes.assign(at=np.arange(len(mistakes)))
    failures: dict[Any, str] = {}
    groups = []
    for (label, predicted), pair in table.groupby(["label", "predicted"], sort=False):
        directions = []
        for (train, test), cells in pair.groupby(["train_domain", "test_domain"], sort=False):
            listed = cells[cells["at"] < MAX_NAMES]
            entries = [
                _entry(row, confidence, names, draw if at < MAX_PICTURES else None)
                for row, confidence, at in listed[["row", "confidence", "at"]].to_numpy().tolist()
            ]
            failures |= {entry["row"]: f"{entry['name']}, {entry['failure']}" for entry in entries if entry["failure"]}
            drawn = [entry for entry in entries if entry["uri"] or entry["failure"]]
            others = [entry for entry in entries if not (entry["uri"] or entry["failure"])]
            directions.append({"train": train, "test": test, "n": len(cells), "cells": drawn, "names": others})
        directions.sort(key=_size, reverse=True)
        groups.append({"label": label, "predicted": predicted, "n": len(pair), "directions": directions})
    groups.sort(key=_size, reverse=True)
    return groups, list(failures.values())


def _common_folder(paths: list[str]) -> str:
    try:
        return os.path.commonpath([PurePath(path).parent for path in paths])
    except ValueError:  # no path, or absolute and relative ones
        return ""


def _size(part: dict[str, Any]) -> int:
    return int(part["n"])


def _entry(
    row: float, confidence: float, names: CellNames, draw: Callable[[int], tuple[str, str]] | None
) -> dict[str, Any]:  # fmt: skip
    """Return what the page shows of a cell: its name and, if `draw` is passed, its picture."""
    row = int(row)
    name, path = names(row)
    uri, failure = draw(row) if draw is not None else ("", "")
    return {"row": row, "name": name, "path": path, "confidence": confidence, "uri": uri, "failure": failure}


def _painter(result: BenchmarkResult) -> Callable[[int], tuple[str, str]]:
    """Return a function that draws a row as a data URI, and gives the reason if it cannot; "" stands for neither."""
    images = images_of(result.cells)
    images = images.to_numpy() if hasattr(images, "to_numpy") else images
    pictured = np.ndim(images[0]) in (0, 2, 3)  # features, instead of paths or pictures, cannot be drawn

    @cache
    def draw(row: int) -> tuple[str, str]:
        if not pictured:
            return "", ""
        try:
            return _thumbnail(images[row], row), ""
        except Exception as exc:  # a damaged image may raise anything
            return "", f"{type(exc).__name__}: {exc!s:.300}"

    return draw


def _thumbnail(image: Any, row: int) -> str:
    picture = Image.fromarray(load_rgb(image, row))
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
