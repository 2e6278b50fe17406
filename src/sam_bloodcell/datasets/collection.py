"""What every loader returns: cells as columns, and as a table for a pipeline."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import Bunch


class Cells(Bunch):
    """A scikit-learn Bunch of cells, with their labels as text and a table for a pipeline.

    Examples
    --------
    >>> from sam_bloodcell.datasets import make_blood_cells
    >>> cells = make_blood_cells(1, classes=["lymphocyte", "monocyte"], image_size=32)
    >>> cells
    Cells(n=4, domains=['lab_a', 'lab_b'], classes=['lymphocyte', 'monocyte'])
    >>> cells.labels.tolist()
    ['lymphocyte', 'monocyte', 'lymphocyte', 'monocyte']
    """

    @property
    def labels(self) -> NDArray[np.str_]:
        """The label of each cell as text: str array (n,)."""
        return np.asarray(self.target_names, dtype=str)[self.target]

    @property
    def frame(self) -> pd.DataFrame:
        """A row per cell with the columns path, domain, label, and group and mask where there are any.

        This is the X of a pipeline: `SAMLoRAEmbedder` reads path and domain, and nothing else.
        """
        if self.get("paths") is None:
            raise ValueError("These cells have images but no files. Fix: load_cells(save_cells(cells, folder)).")
        table = pd.DataFrame({"path": self.paths, "domain": self.domain, "label": self.labels})
        if self.get("group") is not None:
            table["group"] = self.group
        if any(mask is not None for mask in self.get("masks") or []):
            table["mask"] = self.masks
        return table

    def __repr__(self) -> str:
        domains = sorted(set(np.asarray(self.domain).tolist()))
        return f"Cells(n={len(self.target)}, domains={domains}, classes={list(self.target_names)})"
