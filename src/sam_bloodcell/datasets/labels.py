"""One vocabulary for all laboratories: each dataset's codes become harmonised classes, with an audit."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from ..synthetic.anatomy import COMMON_CLASSES
from .tables import check_columns, read_table

# The order of the papers' tables.
HARMONISED_CLASSES = (
    "basophil", "eosinophil", "erythroblast", "myeloblast", "promyelocyte", "myelocyte", "metamyelocyte",
    "neutrophil_banded", "neutrophil_segmented", "monocyte", "lymphocyte_typical", "lymphocyte_atypical",
    "smudge_cell",
)  # fmt: skip
SCHEMES = {"harmonised": HARMONISED_CLASSES, "common": COMMON_CLASSES}
_VERSION = 1  # of label_maps.csv


def read_label_maps(csv: str | os.PathLike | None = None) -> pd.DataFrame:
    """Read label maps: the packaged ones, or your own.

    Parameters
    ----------
    csv : path, optional
        A table with the columns dataset, code, harmonised, common and optionally meaning and note. An empty class
        drops the code, and note says why. Lines that begin with # are comments. By default, the packaged maps are read.

    Returns
    -------
    pandas.DataFrame
        A row per dataset and code, all strings.

    Raises
    ------
    ValueError
        If the file is not a CSV or lacks a column, a code occurs twice, or a class is not in the vocabulary.
    """
    source = Path(__file__).with_name("label_maps.csv") if csv is None else Path(csv)
    return _checked(read_table(source, comment="#"), str(source))


def _checked(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return label maps with all their columns; raise as `read_label_maps`."""
    check_columns(table.columns.tolist(), ["dataset", "code", *SCHEMES], source)
    for scheme, classes in SCHEMES.items():
        for row, name in enumerate(table[scheme]):
            if name not in ("", *classes):
                fix = f"Fix: leave it empty to drop the code, or use one of {', '.join(classes)}."
                raise ValueError(f"'{source}' row {row}: {name!r} is not a {scheme} class. {fix}")
    twice = table[table.assign(code=table["code"].map(_key)).duplicated(["dataset", "code"])]
    if len(twice):
        code, dataset = twice.iloc[0][["code", "dataset"]]
        raise ValueError(f"'{source}' maps the code {code!r} of {dataset} twice. Fix: keep one row.")
    return table.reindex(columns=["dataset", "code", "meaning", *SCHEMES, "note"], fill_value="")


def harmonise_labels(
    codes: Sequence[Any], dataset: str, *, scheme: str = "harmonised",
    maps: pd.DataFrame | str | os.PathLike | None = None,
) -> Bunch:  # fmt: skip
    """Translate a dataset's codes into the shared vocabulary.

    Parameters
    ----------
    codes : sequence of length n
        Codes of the dataset. Case, spaces, dashes and underscores do not matter.
    dataset : str
        Name of the dataset, such as "matek-19".
    scheme : {"harmonised", "common"}, default="harmonised"
        Vocabulary with 13 classes ("harmonised") or 5 classes ("common").
    maps : DataFrame or path, optional
        Label maps, as from `read_label_maps`. By default, the packaged maps are used.

    Returns
    -------
    Bunch
        The labels, as label : str array (n,), "" if dropped; kept : bool array (n,); audit : DataFrame with a row per
        code (code, meaning, label, n, note); version : int of the packaged maps, or None for your own maps.

    Raises
    ------
    ValueError
        If the dataset or scheme is unknown, or a code has no row in the map.

    Examples
    --------
    >>> from sam_bloodcell.datasets import harmonise_labels
    >>> found = harmonise_labels(["SNE", "IG", "MO"], "acevedo-20")
    >>> found.label.tolist()
    ['neutrophil_segmented', '', 'monocyte']
    >>> found.audit.set_index("code").loc["IG", "note"]
    'which stage is not said'
    """
    table = _checked(maps, "maps") if isinstance(maps, pd.DataFrame) else read_label_maps(maps)
    if scheme not in SCHEMES:
        raise ValueError(f"Got scheme={scheme!r} but expected one of {', '.join(SCHEMES)}. Fix: pass one of these.")
    rows = table[table["dataset"] == dataset]
    if rows.empty:
        known = ", ".join(sorted(table["dataset"].unique()))
        raise ValueError(f"Got dataset={dataset!r} but there are maps for {known}. Fix: pass maps= with your own.")
    if isinstance(codes, str):
        raise TypeError(f"Got codes={codes!r} but expected a list of codes. Fix: pass [{codes!r}].")
    codes = list(codes)
    for at, code in enumerate(codes):
        if pd.api.types.is_scalar(code) and pd.isna(code):
            raise ValueError(f"Row {at}: the code is missing. Fix: fill it in or leave the row out.")
    keys = [_key(code) for code in codes]
    labels = dict(zip(rows["code"].map(_key), rows[scheme], strict=True))
    for at, key in enumerate(keys):
        if key not in labels:
            known, fix = ", ".join(rows["code"]), "Fix: correct it, or pass maps= with a row for it."
            raise ValueError(f"Row {at}: {codes[at]!r} is not a code of {dataset}, which has {known}. {fix}")
    counts = [keys.count(key) for key in labels]
    audit = rows.assign(label=rows[scheme], n=counts)[["code", "meaning", "label", "n", "note"]].reset_index(drop=True)
    label = np.array([labels[key] for key in keys], dtype=str)
    return Bunch(label=label, kept=label != "", audit=audit, version=_VERSION if maps is None else None)


def _key(code: Any) -> str:
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFKC", str(code)).casefold()).strip("_")
