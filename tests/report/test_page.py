import errno
import html
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.utils import Bunch
from tests.report.conftest import Autoencoder, Embedder, Embeddings, renamed
from tests.report.tree import parse, tiles_of

from sam_bloodcell.evaluation import findings, run_benchmark, score_predictions
from sam_bloodcell.plotting import canvas
from sam_bloodcell.report import write_report
from sam_bloodcell.report.page import prepare_report


def test_benchmark_scores_both_feature_sets(result):
    assert result.scores.columns[0] == "features"
    assert result.scores["features"].unique().tolist() == ["embeddings", "autoencoder"]
    assert result.features["autoencoder"].shape == (24, 6)
    assert result.autoencoder.domain_.tolist() == ["a"] * 12 + ["b"] * 12
    assert result.reconstructions.shape == (len(result.shown), 8, 8, 3)
    assert result.scores["accuracy"].min() > 0.9


def test_benchmark_without_autoencoder(cells, tmp_path):
    with pytest.warns(UserWarning, match="Left out"):
        result = run_benchmark(cells, Embedder(), None, LogisticRegression(), random_state=3)
    assert list(result.features) == ["embeddings"]
    assert result.reconstructions is None
    page = write_report(result, tmp_path).read_text("utf-8")
    assert "transductive" not in page
    assert "This run had no autoencoder." in page


@pytest.mark.slow
def test_no_reconstructions_without_tokens(cells, tmp_path):
    with pytest.warns(UserWarning, match="Left out"):
        result = run_benchmark(cells, Embedder(False), Autoencoder(), LogisticRegression(), random_state=3)
    assert result.reconstructions is None
    assert write_report(result, tmp_path).stat().st_size > 0


def test_only_the_cells_that_are_drawn_are_indexed(result, tmp_path):
    class Lazy:
        """Crops and masks that are made when they are indexed."""

        def __init__(self, array):
            self.array, self.asked = array, []

        def __getitem__(self, rows):
            self.asked += np.atleast_1d(rows).tolist()
            return self.array[rows]

    n, names = 1000, ["lymphocyte", "monocyte"]
    cells = Bunch(images=result.cells.images[:1].repeat(n, 0), target=np.arange(n) % 2, target_names=names)
    cells.domain = np.repeat(["a", "b", "c"], [500, 450, 50])
    crops, masks = Lazy(np.zeros((n, 8, 8, 3), np.uint8)), Lazy(np.ones((n, 7, 7), bool))
    embeddings, shown = Embeddings(np.zeros((n, 12)), masks, crops), np.arange(4)
    features = {"embeddings": np.random.default_rng(0).random((n, 3))}
    many = replace(result, cells=cells, embeddings=embeddings, features=features, shown=shown, reconstructions=None)
    page = write_report(many, tmp_path).read_text("utf-8")
    assert sorted(masks.asked) == [0, 1, 2, 3]
    assert crops.asked[:4] == [0, 1, 2, 3]
    assert Counter(cells.domain[crops.asked[4:]]) == {"a": 200, "b": 200, "c": 50}
    assert "Colours of at most 200 cells of each laboratory, drawn at random" in page


def test_vector_graphics_are_drawn_only_to_be_written(result, tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **kw: drawn.append(file) or save(self, file, **kw))
    write_report(result, tmp_path)
    assert len(drawn) == 6
    assert not any(isinstance(file, Path) for file in drawn)


def test_page_stands_alone(page):
    tree = parse(page)
    pictures = list(tree.all("img"))
    assert len(pictures) == 6  # two heat maps, confusions, cells, stain, maps
    assert all(picture.attributes["src"].startswith("data:image/") for picture in pictures)
    assert all(picture.attributes["alt"] for picture in pictures)
    assert not re.search(r"https?://|url\(|@import|<script|<link", page)
    links = [link.attributes["href"] for link in tree.all("a")]
    assert all(any(tree.all(tag, id=link[1:]) for tag in ("section", "main")) for link in links if link[0] == "#")
    assert {link[0] for link in links} == {"#"}


def test_contents_name_every_section(page):
    tree = parse(page)
    sections = [section.attributes["id"] for section in tree.all("section")]
    assert [link.attributes["href"][1:] for link in tree.one("nav").all("a")] == sections
    assert sections[:2] == ["verdict", "actions"]
    assert sections[-1] == "glossary"


def test_losses_are_not_drawn(page, result):
    assert result.autoencoder.history_ is not None
    assert not re.search(r"\bloss", parse(page).one("main").text)


def test_page_escapes_what_users_name(page):
    assert "<b>bold</b>" not in page
    assert html.escape("<b>bold</b>") in page
    assert "<h1>A &amp; B</h1>" in page
    assert "sam-bloodcell &lt;demo&gt;" in page


def test_page_says_what_was_done(page, result):
    tree = parse(page)
    assert "transductive" in tree.text
    assert "fewer than 5 cells in a laboratory is left out" in tree.text
    assert ["basophil", "1*", "0", "1"] in tree.one("section", id="counts").table()
    run = {}
    for settings in tree.all("dl", class_="settings"):
        run |= settings.list()
    assert run["command"] == "sam-bloodcell <demo>"
    assert run["number of cells"] == "24"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d .*", run["report written"])
    assert run["cv"] == "five"
    assert run["random_state"] == "3"
    digest = next(name for name in result.settings if "SHA-256" in name)
    assert run[digest] == result.settings[digest]
    assert {"python", "sam-bloodcell", "torch", "scikit-learn", "numpy"} <= set(run)


def test_failed_write_leaves_the_old_report(result, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(result, tmp_path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_figures_as_files(result, tmp_path):
    write_report(result, tmp_path / "report.html", figures=tmp_path / "figures")
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"transfer-1.png", "transfer-1.svg", "maps.png", "confusions.svg", "quality.png"} <= names
    assert not {"history.svg", "history.png"} & names
    assert (tmp_path / "figures" / "maps.svg").read_text().lstrip().startswith("<?xml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("laboratories", "classes"),
    [
        (["北京", "上海"], ["淋巴细胞", "单核细胞", "嗜碱性粒细胞"]),
        (["a<b>&%s", "$x$_2"], ["🩸", "خلية لمفاوية", "line\nbreak"]),
        (["lab\udcff", "lab\udcfe"], ["x" * 300, "None", "_y"]),
    ],
)
def test_page_survives_any_name(result, laboratories, classes, tmp_path):
    folder = tmp_path / "a folder"
    page = write_report(renamed(result, laboratories, classes), folder / "report.html", figures=folder / "figures")
    text = page.read_text("utf-8")  # warnings are errors: none about glyphs
    for name in (*laboratories, *classes):
        shown = html.escape(name.encode("utf-8", "backslashreplace").decode())
        assert f">{shown}<" in text
    assert "could not be drawn" not in text
    assert "figure" in text


@pytest.mark.slow
def test_names_without_glyphs_are_tables_and_a_key(result, tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "_font_with", lambda character: "sans-serif" if character.isascii() else None)
    page = write_report(renamed(result, ["北京", "b"], ["血", "monocyte", "z"]), tmp_path).read_text("utf-8")
    assert '<th scope="row" class="name">北京</th>' in page
    assert '<th scope="row" class="name">血</th>' in page
    assert r"<dt>\u8840</dt><dd>血</dd>" in page
    assert "confusion matrices" not in page.lower()


def test_a_font_that_has_the_glyphs_is_taken(monkeypatch):
    installed = font_manager.fontManager.ttflist
    files = [font.fname for font in installed if font.name == "DejaVu Sans Mono"]
    entry = font_manager.FontEntry(fname=files[0], name="A font of Asia", style="normal", weight=400)
    usual = [font for font in installed if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*usual, entry])

    class Font:
        def __init__(self, file):
            self.file = file

        def get_char_index(self, code):
            return int(code == ord("血") and self.file == files[0])

    monkeypatch.setattr(font_manager, "get_font", Font)
    canvas._search_fonts.cache_clear()
    assert canvas.font_family("血", "x") == ["sans-serif", "A font of Asia"]
    assert canvas.plain("血清") == r"血\u6e05"
    canvas._search_fonts.cache_clear()


def test_a_picture_that_fails_costs_nothing_else(result, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no <font>")

    monkeypatch.setattr("sam_bloodcell.plotting.plot_confusions", fail)
    with pytest.warns(UserWarning, match=r"The report lacks 1 picture\(s\) .*confusions, RuntimeError: no <font>"):
        page = write_report(result, tmp_path).read_text("utf-8")
    assert "This picture could not be drawn (confusions, RuntimeError: no &lt;font&gt;)." in page
    assert page.count("<img") == 5


def test_many_laboratories_are_tables_not_a_picture_a_pair(result, tmp_path, monkeypatch):
    names = [f"lab {i:02d}" for i in range(30)]
    pairs = pd.MultiIndex.from_product([names, names], names=["train_domain", "test_domain"]).to_frame(index=False)
    one = result.predictions[result.predictions["features"] == "embeddings"].iloc[:2].drop(columns=[*pairs])
    predictions = pairs.merge(one.assign(label=["monocyte", "basophil"], predicted="monocyte", known=True), how="cross")
    cells = Bunch(**result.cells | {"domain": np.resize(names, 60), "target": np.resize(result.cells.target, 60)})
    cells.images = np.resize(result.cells.images, (60, 12, 10, 3))
    features = {"embeddings": np.random.default_rng(0).random((60, 5))}
    many = replace(
        result, predictions=predictions, scores=score_predictions(predictions), cells=cells, features=features,
        embeddings=features["embeddings"], intervals=None, reconstructions=None, shown=np.arange(3),
    )  # fmt: skip
    sizes = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **kw: sizes.append(len(self.axes)) or save(self, *a, **kw))
    page = write_report(many, tmp_path).read_text("utf-8")
    assert max(sizes) <= 24
    tree = parse(page)
    recall, transfer = (tree.one("section", id=name).table() for name in ("recall", "transfer"))
    assert recall[0] == ["class, tested on", *names]
    assert [row[0] for row in transfer[1:]] == names
    assert {len(row) for row in transfer} == {31}
    assert {field for row in transfer[1:] for field in row[1:]} == {"0.50"}
    assert "LogisticRegression on embeddings, across laboratories, all pairs together" in tree.text
    assert "870 directions" in tree.one("section", id="verdict").text


@pytest.mark.slow
def test_one_laboratory_is_reported_within_itself(result, tmp_path):
    home = [
        table[table["train_domain"].eq("b") & table["test_domain"].eq("b")]
        for table in (result.predictions, result.scores)
    ]
    cells = Bunch(**result.cells | {"domain": np.repeat(["b"], 24)})
    alone = replace(
        result, predictions=home[0], scores=home[1], cells=cells, intervals=None, shift_by_class=pd.DataFrame()
    )
    tree = parse(write_report(alone, tmp_path).read_text("utf-8"))
    tiles = tiles_of(tree)
    assert tiles["Balanced accuracy within the laboratory"] == f"{findings.verdict(alone).within.value:.2f}"
    assert tiles["Does the autoencoder help this laboratory?"] == "Not compared"
    assert not {"Weakest direction", "Balanced accuracy across laboratories"} & set(tiles)
    assert "Add a second laboratory" in tree.one("section", id="verdict").text
    assert tree.one("section", id="recall").table()[0] == ["class", "b"]
    assert "transfer" not in [section.attributes["id"] for section in tree.all("section")]
    assert "The distance was not measured because fewer than two laboratories have enough cells." in tree.text


def test_nothing_to_score_is_said(result, tmp_path):
    unknown = result.predictions.assign(known=False)
    nothing = replace(result, predictions=unknown, scores=score_predictions(unknown), intervals=None)
    tree = parse(write_report(nothing, tmp_path).read_text("utf-8"))
    assert "nothing could be scored" in tree.one("section", id="verdict").text
    assert not {"recall", "transfer", "mistakes"} & {section.attributes["id"] for section in tree.all("section")}


def test_a_classifier_without_probabilities_has_no_calibration_error(result, tmp_path):
    predictions = result.predictions.assign(confidence=np.nan)
    silent = replace(result, predictions=predictions, scores=score_predictions(predictions))
    tiles = tiles_of(parse(write_report(silent, tmp_path).read_text("utf-8")))
    assert tiles["Calibration error (ECE) across laboratories"] == "Not known"


@pytest.mark.slow
def test_gaps_in_the_distances_are_shown_as_none(result, tmp_path):
    gaps = replace(result, shift_by_class=result.shift_by_class * np.nan)
    tables = [table.table() for table in parse(write_report(gaps, tmp_path).read_text("utf-8")).all("table")]
    distances = next(table for table in tables if "MMD" in table[0])
    assert distances[1][2:] == ["none", "none", "none"]


def test_scores_of_all_classifiers_stand_beside_chance_and_intervals(page, result):
    tables = [table.table() for table in parse(page).all("table")]
    scores = next(table for table in tables if "commonest class" in table[0])
    columns = ["balanced_accuracy", "low", "high", "chance", "accuracy", "majority"]
    assert scores[1:] == [
        [row["features"], row["classifier"], *(f"{row[name]:.3f}" for name in columns)]
        for _, row in result.headlines.iterrows()
    ]
    recall = result.recall.set_index(["features", "label"])["recall"]
    shown = next(table for table in tables if table[0][0] == "class" and " on embeddings" in table[0][1])
    assert ["monocyte", *(f"{recall[name, 'monocyte']:.2f}" for name in ("embeddings", "autoencoder"))] in shown


def test_thousands_of_copies_are_counted_and_twenty_are_listed(result, tmp_path):
    pairs = pd.DataFrame({"a": 0, "b": 1, "distance": 0.0}, index=range(3000))
    page = write_report(replace(result, duplicates=pairs), tmp_path).read_text("utf-8")
    section = parse(page).one("section", id="labels")
    assert "The embeddings of 3000 pairs of cells are nearly equal; the closest 20 are listed." in section.text
    assert [item.text for item in section.all("li")] == ["row 0 of a and row 1 of a"] * 20


def test_a_report_that_cannot_be_written_is_refused_beforehand(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="so it was not written"):
        prepare_report(tmp_path / "file" / "report.html")
    monkeypatch.setattr(Path, "touch", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(OSError, match="Read-only file system, so it was not written"):
        prepare_report(tmp_path / "report.html")
    monkeypatch.undo()
    assert prepare_report(tmp_path / "new" / "report.html", tmp_path / "figures").parent.is_dir()
    assert [*(tmp_path / "new").iterdir(), *(tmp_path / "figures").iterdir()] == []


@pytest.mark.slow
def test_a_picture_that_does_not_fit_on_the_disk_is_named(result, tmp_path, monkeypatch):
    save = Figure.savefig

    def full(figure, file, **settings):
        save(figure, file, **settings)
        if str(file).endswith(".svg"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.warns(UserWarning, match=r"so it was not written\. Fix: free space there.*transfer.*\.svg"):
        write_report(result, tmp_path / "report.html", figures=tmp_path / "figures")
    assert not list((tmp_path / "figures").glob("*.svg"))
    assert not list((tmp_path / "figures").glob(".*"))
