import sys

import numpy as np
import pandas as pd
import pytest

from sam_bloodcell.plotting import plot_cells, plot_embedding_map, plot_history, plot_transfer_matrix


@pytest.fixture
def scores():
    rows = [
        {"classifier": name, "train_domain": a, "test_domain": b, "fold": fold, "value": 0.5 + fold / 10}
        for name in ("RF", "LR")
        for a in "ab"
        for b in "ab"
        for fold in range(2)
    ]
    table = pd.DataFrame(rows)
    return table.assign(accuracy=table["value"], balanced_accuracy=table["value"], macro_f1=0.1)


def draw(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png", dpi=40)  # warnings are errors: a failed layout fails here


def test_transfer_matrix_shows_mean_and_spread(scores, tmp_path):
    figure = plot_transfer_matrix(scores)
    draw(figure, tmp_path)
    assert [ax.get_title() for ax in figure.axes] == ["RF", "LR"]
    assert {text.get_text() for text in figure.axes[0].texts} == {"0.55\n± 0.07"}


def test_transfer_matrix_picks_classifier_and_metric(scores, tmp_path):
    figure = plot_transfer_matrix(scores, metric="macro_f1", classifier="LR")
    assert len(figure.axes) == 1
    assert figure.axes[0].texts[0].get_text().startswith("0.10")
    with pytest.raises(ValueError, match="Got classifier='SVM'"):
        plot_transfer_matrix(scores, classifier="SVM")
    with pytest.raises(ValueError, match="Got metric='auc'"):
        plot_transfer_matrix(scores, metric="auc")


def test_transfer_matrix_says_none_where_nothing_was_scored(scores, tmp_path):
    scores.loc[scores["test_domain"] == "b", "balanced_accuracy"] = np.nan
    figure = plot_transfer_matrix(scores, classifier="RF")
    draw(figure, tmp_path)
    assert [text.get_text() for text in figure.axes[0].texts][1::2] == ["none", "none"]


def test_cells_of_any_shape_with_outline(tmp_path):
    pictures = [np.zeros((20, 30, 3), np.uint8), np.zeros((40, 40, 3), np.uint8)]
    masks = np.zeros((2, 14, 14), bool)
    masks[0, :5] = True  # touches the border; the second is empty
    crops = np.zeros((2, 16, 16, 3), np.uint8)
    figure = plot_cells(pictures, masks, crops, crops[:, ::2, ::2], titles=["$a$ and $b", "_c"])
    draw(figure, tmp_path)
    assert len(figure.axes) == 6
    assert len(figure.axes[0].collections) == 2  # outline in black on white
    assert len(figure.axes[3].collections) == 0
    with pytest.raises(ValueError, match=r"Got \{'images': 2, 'masks': 1\}"):
        plot_cells(pictures, masks[:1])


def test_history_has_an_axis_per_term(tmp_path):
    figure = plot_history(pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2, 1], "token_mse": [1.0, 1, 1]}))
    draw(figure, tmp_path)
    assert [ax.get_title() for ax in figure.axes] == ["loss", "token mse"]
    with pytest.raises(ValueError, match="expected losses by epoch"):
        plot_history(pd.DataFrame({"epoch": [1]}))


def test_embedding_map_marks_every_class_apart(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"class {i}" for i in range(13)]
    y = np.tile(np.arange(13), 4)
    figure = plot_embedding_map({"one": rng.normal(size=(52, 3))}, np.repeat(["_a", "b"], 26), y, names)
    draw(figure, tmp_path)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == sorted(names)
    shapes = {points.get_paths()[0].vertices.tobytes() for points in figure.axes[0].collections}
    assert len(shapes) == 13
    with pytest.raises(ValueError, match="Got lengths"):
        plot_embedding_map({"one": np.eye(3)}, ["a"] * 3, [0, 1])


def test_missing_matplotlib_names_the_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "sam-bloodcell\[report\]"'):
        plot_history(pd.DataFrame({"loss": [1.0]}))
