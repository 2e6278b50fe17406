"""What sphinx-gallery asks of us: the order of the examples, and pictures that belong to no pyplot session."""

from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

ORDER = (
    "plot_quickstart.py",
    "plot_predict_folder.py",
    "plot_inspect_errors.py",
    "plot_few_labels.py",
    "plot_own_encoder.py",
    "plot_compare_features.py",
    "plot_domain_shift.py",
    "plot_grid_search.py",
    "plot_finetune.py",
    "plot_morphology.py",
    "plot_paper.py",
)
_SEEN: WeakSet[Figure] = WeakSet()


def place(filename: str) -> int:
    """Sort the examples from the first to read to the last."""
    return ORDER.index(filename)


def save_last_figure(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the figure that a block ends in: those of `sam_bloodcell.plotting` are unknown to pyplot."""
    return figure_rst(list(_saved(block_vars)), gallery_conf["src_dir"])


def _saved(block_vars: dict[str, Any]) -> Iterator[str]:
    figure = block_vars["example_globals"].get("___")  # sphinx-gallery's name of a block's last value
    if isinstance(figure, Figure) and figure not in _SEEN:
        _SEEN.add(figure)
        path = next(block_vars["image_path_iterator"])
        figure.savefig(path, dpi=110)
        yield path
    plt.close("all")
