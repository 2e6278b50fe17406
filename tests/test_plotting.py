import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sam_bloodcell.plotting import (
    canvas,
    plot_cells,
    plot_confusions,
    plot_embedding_map,
    plot_history,
    plot_mask_quality,
    plot_mistakes,
    plot_stain,
    plot_transfer_matrix,
)
from sam_bloodcell.segmentation.cell import QUALITY


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
    with pytest.raises(ValueError, match="The 'metric' parameter of plot_transfer_matrix"):
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


@pytest.fixture
def predictions():
    cells = pd.DataFrame(
        {"train_domain": "a", "test_domain": ["a", "a", "b", "b"], "fold": 0, "row": range(4), "known": True,
         "label": ["x", "y", "x", "y"], "predicted": ["x", "y", "y", "y"], "confidence": [0.9, 0.8, 0.7, 0.6]}
    )  # fmt: skip
    return cells.assign(classifier="LR")


def test_confusions_show_shares_of_each_true_class(predictions):
    figure = plot_confusions(predictions)
    abroad = figure.axes[1]
    assert abroad.get_title() == "a → b"
    np.testing.assert_array_equal(abroad.images[0].get_array(), [[0, 1], [0, 1]])
    with pytest.raises(ValueError, match="Got predictions of 2 classifiers"):
        plot_confusions(pd.concat([predictions, predictions.assign(classifier="RF")]))


def titles_of(figure):
    return [ax.get_title(loc="left").split("\n") for ax in figure.axes]


def test_mistakes_are_the_confident_ones_abroad(predictions):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    assert titles_of(plot_mistakes(predictions, images)) == [["row 2", "a → b", "x → y 0.70"]]
    assert plot_mistakes(predictions[:2], images) is None
    assert titles_of(plot_mistakes(predictions.assign(confidence=np.nan), images))[0][2] == "x → y"


def test_mistakes_name_the_file_and_shorten_names_in_the_middle(predictions, tmp_path):
    names = ["0.png", "1.png", "scan of the 2nd of March, cell 00017.png", "3.png"]
    paths = [tmp_path / name for name in names]
    for path in paths:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    for images in (paths, list(map(str, paths))):
        ((file, *_),) = titles_of(plot_mistakes(predictions, images))
        assert file == "scan of the 2…cell 00017.png"
    long = predictions.replace({"x": "a class with quite a long name", "y": "another class with a long name"})
    figure = plot_mistakes(
        long.replace({"a": "the laboratory of this hospital", "b": "and that of the other one"}), paths
    )
    draw(figure, tmp_path)
    assert len(titles_of(figure)[0]) == 5  # the pair and the answer take two lines each


def test_mistakes_of_one_pair_alone(predictions):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    back = predictions.assign(train_domain="b", test_domain="a", predicted="x")
    both = pd.concat([predictions, back[:2], predictions[:1].assign(predicted="y")], ignore_index=True)
    assert [lines[1] for lines in titles_of(plot_mistakes(both, images))] == ["b → a", "a → b"]
    assert [lines[1] for lines in titles_of(plot_mistakes(both, images, pair=("a", "b")))] == ["a → b"]
    assert [lines[1] for lines in titles_of(plot_mistakes(both, images, pair=("a", "a")))] == ["a → a"]
    with pytest.raises(
        ValueError,
        match=r"Got pair=\('b', 'b'\) but expected a pair of the predictions\. Fix: pass one of these pairs: \('",
    ):
        plot_mistakes(both, images, pair=("b", "b"))


def test_mask_quality_and_stain_have_a_box_a_laboratory():
    quality = np.zeros(6, QUALITY)
    quality["area"], quality["fallback"][0] = np.linspace(0.1, 0.3, 6), True
    figure = plot_mask_quality(quality, list("aaabbb"))
    assert figure.get_suptitle() == "1 of 6 images without a plausible cell"
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["a", "b"]
    crops = np.full((6, 8, 8, 3), 128, np.uint8)
    crops[:5, 2:5, 2:5] = (200, 100, 50)  # the last one is empty
    medians = [line.get_xdata()[0] for line in plot_stain(crops, list("aaabbb")).axes[0].lines]
    assert 200 in medians


def test_umap_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r'pip install "sam-bloodcell\[umap\]"'):
        plot_embedding_map({"x": np.eye(4)}, list("aabb"), list("xyxy"), method="umap")
    with pytest.raises(ValueError, match="Got method='tsne'"):
        plot_embedding_map({"x": np.eye(4)}, list("aabb"), list("xyxy"), method="tsne")


def test_a_hundred_classes_leave_room_for_the_map(tmp_path):
    y = [f"class {i}" for i in range(100)] * 2
    figure = plot_embedding_map({"one": np.random.default_rng(0).normal(size=(200, 3))}, np.repeat(["a", "b"], 100), y)
    draw(figure, tmp_path)
    assert len(figure.axes[0].get_legend().get_texts()) == 100
    assert figure.axes[0].get_position().width > 0.2


def test_one_feature_or_equal_cells_are_drawn_on_a_line(tmp_path):
    draw(
        plot_embedding_map({"one": np.arange(4.0)[:, None], "equal": np.ones((4, 3))}, list("aabb"), list("xyxy")),
        tmp_path,
    )


def test_long_names_stay_apart_and_strange_characters_are_escaped():
    assert canvas.plain("x" * 40 + "1") != canvas.plain("x" * 40 + "2")
    assert len(canvas.plain("x" * 400)) == 32
    assert canvas.plain("a\nb\udcff") == r"a\nb\udcff"


def test_two_names_of_which_one_is_read_from_the_right_take_two_lines():
    assert canvas.title_of_two("x", " →", "y", 26) == "x → y"
    assert canvas.title_of_two("خلية", " →", "y", 26) == "خلية →\ny"
