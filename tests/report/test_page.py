import errno
import html
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils import Bunch

from sam_bloodcell.evaluation import run_benchmark, score_predictions
from sam_bloodcell.plotting import canvas
from sam_bloodcell.report import write_report
from sam_bloodcell.report.page import prepare_report


class Embeddings:
    """What the package's CellEmbeddings promises: an array that also carries masks, crops and, if kept, tokens."""

    def __init__(self, pooled, masks, crops, tokens=None):
        self.pooled, self.masks, self.crops, self.shape = pooled, masks, crops, pooled.shape
        if tokens is not None:
            self.tokens = tokens

    def __array__(self, dtype=None, copy=None):
        return self.pooled.astype(dtype or self.pooled.dtype)

    def __len__(self):
        return len(self.pooled)

    def __getitem__(self, rows):
        tokens = self.tokens[rows] if hasattr(self, "tokens") else None
        return Embeddings(self.pooled[rows], self.masks[rows], self.crops[rows], tokens)


class Embedder(TransformerMixin, BaseEstimator):
    def __init__(self, keep_tokens=True):
        self.keep_tokens = keep_tokens

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        pooled = np.stack([image[:2, :2].ravel() for image in X]).astype(np.float32)
        tokens = np.zeros((len(X), 4, 2, 2), np.float16) if self.keep_tokens else None
        return Embeddings(pooled, np.ones((len(X), 7, 7), bool), np.zeros((len(X), 16, 16, 3), np.uint8), tokens)


class Autoencoder(BaseEstimator):
    def fit(self, X, y=None, *, domain=None):
        self.domain_ = domain
        self.history_ = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5]})
        return self

    def transform(self, X):
        return np.asarray(X)[:, :6]

    def reconstruct(self, X):
        return X.crops[: len(X.tokens), ::2, ::2]


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    target = np.tile([0, 1], 12)
    images = (
        rng.integers(0, 60, size=(24, 12, 10, 3), dtype=np.uint8) + (target * 150).astype(np.uint8)[:, None, None, None]
    )
    target[0] = 2
    names = ["<b>bold</b>", "monocyte", "basophil"]
    return Bunch(images=images, target=target, target_names=names, domain=np.repeat(["a", "b"], 12))


@pytest.fixture(scope="module")
def result(cells):
    with pytest.warns(UserWarning, match="'basophil' of domain 'a'") as caught:
        result = run_benchmark(cells, Embedder(), Autoencoder(), LogisticRegression(), random_state=3)
    assert len(caught) == 1  # once, not once per feature set
    return result


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "page.html"
    settings = {"command": "sam-bloodcell <demo>", "cv": "five"}
    assert write_report(result, path, title="A & B", settings=settings) == path
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    return path.read_text("utf-8")


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
    assert "Training of the autoencoder" not in page


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
    assert len(drawn) == 7
    assert not any(isinstance(file, Path) for file in drawn)


def test_page_stands_alone(page):
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 7  # two heat maps, confusions, cells, stain, losses, maps
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|url\(|@import|<script|<link", page)
    assert len(re.findall(r'<img [^>]*alt="[^"]+', page)) == 7


def test_page_escapes_what_users_name(page):
    assert "<b>bold</b>" not in page
    assert html.escape("<b>bold</b>") in page
    assert "<h1>A &amp; B</h1>" in page
    assert "sam-bloodcell &lt;demo&gt;" in page


def test_page_says_what_was_done(page):
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "chance level, always answering one class, is 0.50" in text
    assert "transductive" in text
    assert "fewer than 5 cells in a laboratory is left out" in text
    assert "basophil 1* 0 1" in text
    assert "cv five folds keep together nothing random_state 3 cells SHA-256" in text
    for package in ("python", "sam-bloodcell", "torch", "scikit-learn", "numpy"):
        assert f"<dt>{package}</dt>" in page


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
    assert {"transfer-1.png", "transfer-1.svg", "maps.png", "confusions.svg", "history.svg", "quality.png"} <= names
    assert (tmp_path / "figures" / "maps.svg").read_text().lstrip().startswith("<?xml")


def renamed(result, laboratories, classes):
    """The same result, with other names of laboratories and classes."""
    names = dict(zip(["a", "b", *result.cells.target_names], [*laboratories, *classes], strict=True))
    columns = ("train_domain", "test_domain", "label", "predicted")
    tables = [
        table.assign(**{column: table[column].map(names) for column in columns if column in table})
        for table in (result.predictions, result.scores)
    ]
    domain = np.array([names[name] for name in result.cells.domain])
    cells = Bunch(**result.cells | {"target_names": list(classes), "domain": domain})
    return replace(result, predictions=tables[0], scores=tables[1], cells=cells)


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


def test_names_without_glyphs_are_tables_and_a_key(result, tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "_font_with", lambda character: "sans-serif" if character.isascii() else None)
    page = write_report(renamed(result, ["北京", "b"], ["血", "monocyte", "z"]), tmp_path).read_text("utf-8")
    assert '<th scope="row" class="name">北京</th>' in page
    assert '<th scope="row" class="name">血</th>' in page
    assert r"<dt>\u8840</dt><dd>血</dd>" in page
    assert "confusion matrices" not in page.lower()


def test_a_font_that_has_the_glyphs_is_taken(monkeypatch):
    files = [font.fname for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans Mono"]
    entry = font_manager.FontEntry(fname=files[0], name="A font of Asia", style="normal", weight=400)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [entry])

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
    with pytest.warns(
        UserWarning, match=r"Left 1 picture\(s\) out of the report .*confusions, RuntimeError: no <font>"
    ):
        page = write_report(result, tmp_path).read_text("utf-8")
    assert "This picture could not be drawn (confusions, RuntimeError: no &lt;font&gt;)." in page
    assert page.count("<img") == 6


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
    rows = re.findall(r'<tr><th scope="row" class="name">(lab \d\d)</th>((?:<td[^>]*>[^<]*</td>)+)</tr>', page)
    assert [name for name, _ in rows] == names
    assert {row.count("0.50") // 2 for _, row in rows} == {30}  # the number, and its shade
    assert "LogisticRegression on embeddings, across laboratories, all pairs together" in page


def test_one_laboratory_is_reported_within_itself(result, tmp_path):
    home = [
        table[table["train_domain"].eq("b") & table["test_domain"].eq("b")]
        for table in (result.predictions, result.scores)
    ]
    cells = Bunch(**result.cells | {"domain": np.repeat(["b"], 24)})
    alone = replace(
        result, predictions=home[0], scores=home[1], cells=cells, intervals=None, shift_by_class=pd.DataFrame()
    )
    text = " ".join(re.sub(r"<[^>]+>", " ", write_report(alone, tmp_path).read_text("utf-8")).split())
    assert "within the one laboratory, in folds not trained on, is" in text
    assert "There are no two laboratories of enough cells to measure a distance between." in text


def test_gaps_in_the_distances_are_shown_as_none(result, tmp_path):
    gaps = replace(result, shift_by_class=result.shift_by_class * np.nan)
    assert "<td>none</td><td>none</td>" in write_report(gaps, tmp_path).read_text("utf-8")


def test_headlines_stand_beside_chance_intervals_and_recall(page, result):
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    best = result.headlines.iloc[0]
    assert f"95% interval {best['low']:.2f} to {best['high']:.2f}, 2 train&rarr;test pairs);" in text
    assert f"always answering the commonest class would score {best['majority']:.2f}." in text
    assert "Recall of each class" in text
    recall = result.recall.set_index(["features", "label"])["recall"]
    shown = f"monocyte {recall['embeddings', 'monocyte']:.2f} {recall['autoencoder', 'monocyte']:.2f}"
    assert shown in text


def test_thousands_of_copies_are_counted_and_twenty_are_listed(result, tmp_path):
    pairs = pd.DataFrame({"a": 0, "b": 1, "distance": 0.0}, index=range(3000))
    page = write_report(replace(result, duplicates=pairs), tmp_path).read_text("utf-8")
    assert "The embeddings of 3000 pairs of cells are nearly equal; the closest 20 are listed." in page
    assert page.count("<li>row 0 of a and row 1 of a</li>") == 20


def test_a_report_that_cannot_be_written_is_refused_beforehand(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="so that it is not written"):
        prepare_report(tmp_path / "file" / "report.html")
    monkeypatch.setattr(Path, "touch", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(OSError, match="Read-only file system, so that it is not written"):
        prepare_report(tmp_path / "report.html")
    monkeypatch.undo()
    assert prepare_report(tmp_path / "new" / "report.html", tmp_path / "figures").parent.is_dir()
    assert [*(tmp_path / "new").iterdir(), *(tmp_path / "figures").iterdir()] == []


# Notes in the page what a reader would stumble over: errors, images that did not load, text cut off or off the page.
LOOK = """<script>
const found = {errors: [], images: 0, broken: 0, clipped: []};
addEventListener("error", (event) => found.errors.push(String(event.message || event.target.src)), true);
addEventListener("load", () => {
  for (const image of document.images) { found.images++; if (!image.naturalWidth) found.broken++; }
  if (document.documentElement.scrollWidth > innerWidth) found.clipped.push("page");
  for (const element of document.querySelectorAll("body *")) {
    const hides = ["hidden", "clip"].includes(getComputedStyle(element).overflowX);
    if (hides && element.scrollWidth > element.clientWidth) found.clipped.push(element.tagName);
  }
  document.body.dataset.found = JSON.stringify(found);
});
</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1200, 600])
def test_page_in_a_real_browser(page, width, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page.replace("<head>", f"<head>{LOOK}"), "utf-8")
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--window-size={width},900",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=5000",
        f"--screenshot={tmp_path / 'page.png'}", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', shown.stdout)[1]))
    assert found == {"errors": [], "images": 7, "broken": 0, "clipped": []}


def test_a_picture_that_does_not_fit_on_the_disk_is_named(result, tmp_path, monkeypatch):
    save = Figure.savefig

    def full(figure, file, **settings):
        save(figure, file, **settings)
        if str(file).endswith(".svg"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.warns(UserWarning, match=r"so that it is not written\. Fix: free space there.*transfer.*\.svg"):
        write_report(result, tmp_path / "report.html", figures=tmp_path / "figures")
    assert not list((tmp_path / "figures").glob("*.svg"))
    assert not list((tmp_path / "figures").glob(".*"))
