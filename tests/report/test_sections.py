"""What the sections of a report say, against what the analysis found."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.utils import Bunch
from tests.report.tree import parse, tiles_of

from sam_bloodcell.evaluation import findings
from sam_bloodcell.report import write_report


@pytest.mark.slow
def test_the_first_screen_says_what_the_verdict_says(three, tmp_path):
    tree = parse(write_report(three, tmp_path).read_text("utf-8"))
    verdict, first = findings.verdict(three), tree.one("section", id="verdict")
    tiles = tiles_of(tree)
    assert tiles["Balanced accuracy within laboratories"] == f"{verdict.within.value:.2f}"
    assert tiles["Balanced accuracy across laboratories"] == f"{verdict.across.value:.2f}"
    assert tiles["Weakest direction"] == f"{verdict.weakest_pair[2]:.2f}"
    assert tiles["Weakest class"] == f"{verdict.weakest_class[1]:.2f}"
    assert tiles["Calibration error (ECE) across laboratories"] == f"{verdict.calibration['across']:.2f}"
    assert tiles["Does the autoencoder help these laboratories?"].lower() == verdict.autoencoder.helps
    for interval in (verdict.within, verdict.across):
        assert f"{interval.low:.2f} to {interval.high:.2f}; chance {interval.chance:.2f}" in first.text
    assert f"trained on {verdict.weakest_pair[0]} , tested on {verdict.weakest_pair[1]} ;" in first.text
    assert f"recall of {verdict.weakest_class[0]} " in first.text
    assert f"classifier {verdict.classifier} on {verdict.features}" in first.text
    assert f"finds {verdict.across.value:.0%} of a class's cells in another laboratory" in first.text


@pytest.mark.slow
def test_features_that_have_seen_the_tested_images_are_called_so(three, tmp_path):
    features, _ = findings.recommended(three)
    other = {"autoencoder": "embeddings", "embeddings": "autoencoder"}
    swapped = [table.assign(features=table["features"].map(other)) for table in (three.predictions, three.scores)]
    renamed = replace(three, predictions=swapped[0], scores=swapped[1], intervals=None)
    for result, name in ((three, features), (renamed, other[features])):
        tree = parse(write_report(result, tmp_path).read_text("utf-8"))
        found = "fitted on the images of these laboratories" in tree.one("section", id="verdict").text
        assert found == (name == "autoencoder")


@pytest.mark.slow
def test_a_star_is_explained_only_where_there_is_one(three, page, tmp_path):
    counts = [
        parse(text).one("section", id="counts").text for text in (page, write_report(three, tmp_path).read_text())
    ]
    assert ["fewer than 5 cells" in text for text in counts] == [True, False]


@pytest.mark.slow
def test_what_to_do_is_the_advice_in_its_order(three, tmp_path, monkeypatch):
    advice = [
        findings.Advice("mislabelled", "Look at <these>.", list(range(30))),
        findings.Advice("patients", "Add patients."),
    ]
    monkeypatch.setattr(findings, "advice", lambda _: advice)
    items = list(parse(write_report(three, tmp_path).read_text("utf-8")).one("ol").all("li"))
    items = [item for item in items if any(item.all("details")) or item.text == "Add patients."]
    assert [item.text.partition(" 30 cells")[0] for item in items] == ["Look at <these>.", "Add patients."]
    named = [item.text for item in items[0].all("li")]
    assert named == [*(f"cell {row:03d}.png" for row in range(20)), "and 10 more"]
    monkeypatch.setattr(findings, "advice", lambda _: [])
    assert "Nothing was found that needs action." in write_report(three, tmp_path).read_text("utf-8")


@pytest.mark.slow
def test_recall_and_transfer_are_tables_with_numbers(three, tmp_path):
    tree = parse(write_report(three, tmp_path).read_text("utf-8"))
    table = tree.one("section", id="recall").table()
    assert table[0] == ["trained on", "lab 00", "lab 01", "lab 02"]
    assert table[1][1:] == ["lab 00", "lab 01", "lab 02"] * 3
    recall = findings.recall_by_direction(three).set_index(["label", "train_domain", "test_domain"])["recall"]
    assert table[2][:3] == [
        "class 000", f"{recall['class 000', 'lab 00', 'lab 00']:.2f} n 10",
        f"{recall['class 000', 'lab 00', 'lab 01']:.2f} n 10",
    ]  # fmt: skip
    features, classifier = findings.recommended(three)
    scores = three.scores[(three.scores["features"] == features) & (three.scores["classifier"] == classifier)]
    means = scores.groupby(["train_domain", "test_domain"])["balanced_accuracy"].mean()
    assert tree.one("section", id="transfer").table()[1:] == [
        [train, *(f"{means[train, test]:.2f}" for test in ("lab 00", "lab 01", "lab 02"))]
        for train in ("lab 00", "lab 01", "lab 02")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("n_open", [1000, 1])
def test_every_mistake_is_shown_with_its_file_and_confidence(three, n_open, tmp_path, monkeypatch):
    for what in ("MAX_OPEN", "MAX_DIRECTIONS", "MAX_GROUPS"):
        monkeypatch.setattr(f"sam_bloodcell.report.page.{what}", n_open)
    tree = parse(write_report(three, tmp_path).read_text("utf-8"))
    section = tree.one("section", id="mistakes")
    shown = {cell.one("span", class_="file").text: cell for cell in section.all("details", class_="cell")}
    table = findings.mistakes(three)
    assert set(shown) == {Path(path).name for path in table["path"]}
    for wrong in table.itertuples():
        cell = shown[Path(wrong.path).name]
        assert f"{wrong.confidence:.2f}" in cell.one("summary").text
        assert f"Given class: {wrong.label} . Answer: {wrong.predicted} ." in cell.text
        assert (
            cell.one("img").attributes["alt"] == f"{Path(wrong.path).name}: {wrong.label}, answered {wrong.predicted}"
        )
    pairs = table.groupby(["label", "predicted"]).size()
    headings = {f"{a} → {b} : {n} {'cell' if n == 1 else 'cells'}" for (a, b), n in pairs.items()}
    shown = {heading.text for heading in section.all("h3")}
    assert shown - {f"{len(pairs) - 1} more pairs of class and answer"} == headings


@pytest.mark.slow
def test_labels_to_check_are_listed(three, tmp_path, monkeypatch):
    suspected = pd.DataFrame({
        "row": [7], "domain": "lab 01", "label": "class 000", "predicted": "class 001", "confidence": 0.97,
        "agreement": 1.0,
    })  # fmt: skip
    clash = {"label": "class 000", "domain": "lab 00", "other_domain": "lab 01", "finding": "They differ."}
    monkeypatch.setattr(findings, "suspected_labels", lambda _: suspected)
    monkeypatch.setattr(findings, "clashing_labels", lambda _: pd.DataFrame([clash]))
    section = parse(write_report(three, tmp_path).read_text("utf-8")).one("section", id="labels")
    clashes, cells = (table.table() for table in section.all("table"))
    assert clashes[1] == list(clash.values())
    assert cells[1] == ["cell 007.png", "lab 01", "class 000", "class 001", "0.97", "1.00"]


@pytest.mark.slow
def test_images_that_are_gone_are_named_once_and_counted_in_the_warning(three, tmp_path):
    paths = [str(tmp_path / "gone" / Path(path).name) for path in three.cells.paths]
    gone = replace(three, cells=Bunch(**three.cells | {"paths": paths}))
    with pytest.warns(UserWarning, match=r"The report lacks \d+ picture\(s\).*; and \d+ more\.") as caught:
        page = write_report(gone, tmp_path).read_text("utf-8")
    assert len(str(caught[0].message)) < 3000
    cells = list(parse(page).all("details", class_="cell"))
    assert len(cells) == len(findings.mistakes(three))
    assert all("The image cannot be read: ImageReadError" in cell.text for cell in cells)


@pytest.mark.slow
def test_every_abbreviation_of_the_page_is_in_the_glossary(three, tmp_path):
    result = replace(three, predictions=three.predictions.replace({"classifier": {"RF": "MLP"}}))
    tree = parse(write_report(result, tmp_path).read_text("utf-8"))
    terms = tree.one("section", id="glossary").list()
    known = " ".join(terms)
    for settings in tree.all("dl", class_="settings"):
        settings.children = []
    used = set(re.findall(r"\b[A-Z][A-Z0-9]+(?:-\d+)?\b", tree.text)) - {"UTC"}
    assert {"ECE", "LR", "MMD", "SVM"} <= used
    assert {name for name in used if not re.search(rf"\b{name}\b", known)} == set()
    for term in (
        "balanced accuracy",
        "recall",
        "chance",
        "interval",
        "fold",
        "transductive",
        "embeddings",
        "autoencoder",
    ):
        assert term in terms
    assert "XGBoost" not in terms


def test_tables_are_real_ones_that_a_screen_reader_can_read(page):
    tree = parse(page)
    assert next(tree.all("html")).attributes["lang"] == "en"
    for table in tree.all("table"):
        assert all("scope" in cell.attributes for cell in table.all("th"))
        assert any(table.one("thead").all("th"))
    boxes = list(tree.all("div", class_="scroll"))
    assert len(boxes) == len(list(tree.all("table")))
    assert all(box.attributes["tabindex"] == "0" and box.attributes["aria-label"] for box in boxes)


def luminance(colour):
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_text_stands_out_from_every_background(page):
    variables = dict(re.findall(r"--(\w+): (#\w+)", page))
    grounds = [*re.findall(r"background: (#\w+)", page), variables["wash"]]
    assert len(grounds) > 22  # both scales
    texts = [variables["ink"], *re.findall(r"[; {]color: (#\w+)", page)]
    for ground in grounds:
        for text in texts:
            assert (luminance(ground) + 0.05) / (luminance(text) + 0.05) >= 4.5, (text, ground)
    for ground in ("#fff", variables["wash"], "#fdf3ef", "#fdf8e9", "#fafafa", "#f4f4f4"):
        for name in ("soft", "accent"):
            assert (luminance(ground) + 0.05) / (luminance(variables[name]) + 0.05) >= 4.5, (name, ground)


@pytest.mark.slow
def test_a_few_labels_have_a_table_and_small_laboratories_are_named(three, tmp_path):
    names = np.unique(three.cells.domain).tolist()
    rows = [(0, "none", 0, 0.5), (32, "random", 0, 0.6), (32, "random", 1, 0.8), (32, "informative", 0, 0.81)]
    curve = pd.DataFrame(rows, columns=["n_labels", "chosen", "draw", "balanced_accuracy"])
    curve = curve.assign(test_domain=names[0], ece=0.1, n_test=30)
    text = parse(write_report(replace(three, label_curve=curve), tmp_path).read_text("utf-8")).text
    assert f"{names[0]} 32 random 0.700 ± 0.141 0.100 ± 0.000" in text
    assert f"{names[0]} 32 informative 0.810 0.100" in text
    assert f"These laboratories have too few cells to try this: {names[1]} , {names[2]}" in text
    assert "cells of one patient may be among both the labelled and the tested cells" in text
    grouped = replace(three, label_curve=curve, cells=Bunch(**three.cells | {"group": range(len(three.cells.target))}))
    text = parse(write_report(grouped, tmp_path / "grouped").read_text("utf-8")).text
    assert "No cell of a patient or slide with a labelled cell is tested." in text
    assert "may be among both" not in text
    without = parse(write_report(replace(three, label_curve=curve[:0]), tmp_path).read_text("utf-8")).text
    assert "A few labels of a new laboratory" not in without
