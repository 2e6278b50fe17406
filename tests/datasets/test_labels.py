import numpy as np
import pandas as pd
import pytest

from sam_bloodcell.datasets import COMMON_CLASSES, HARMONISED_CLASSES, harmonise_labels, read_label_maps

# The maps as the papers and the datasets' own pages have them, told once more and in another way.
EXPECTED = {
    "matek-19": "BAS EOS EBO MYO PMO MYB MMZ NGB NGS MON LYT LYA KSC",
    "acevedo-20": "BA EO ERB - PMY MY MMY BNE SNE MO LY - -",
}


@pytest.mark.parametrize("dataset", EXPECTED)
def test_thirteen_classes_of_the_papers(dataset):
    pairs = [
        (code, name) for code, name in zip(EXPECTED[dataset].split(), HARMONISED_CLASSES, strict=True) if code != "-"
    ]
    codes, names = zip(*pairs, strict=True)
    assert harmonise_labels(codes, dataset).label.tolist() == list(names)


@pytest.mark.parametrize(
    ("dataset", "dropped"),
    [
        ("matek-19", {"PMB"}),
        ("acevedo-20", {"IG", "NEUTROPHIL", "PLATELET"}),
        ("int-20", {"04-LGL", "16-PLZ", "21-Haarzelle", "22-Atyp-PMYEL"}),
    ],
)
def test_what_is_dropped_is_reported_with_a_reason(dataset, dropped):
    codes = read_label_maps().query("dataset == @dataset")["code"].tolist()
    found = harmonise_labels(codes, dataset)
    gone = found.audit[found.audit["label"] == ""]
    assert set(gone["code"]) == dropped
    assert (gone["note"] != "").all()
    assert found.kept.sum() == len(codes) - len(dropped)
    assert found.audit["n"].eq(1).all()


def test_every_dropped_code_of_every_map_says_why():
    maps = read_label_maps()
    assert (maps.loc[(maps["harmonised"] == "") | (maps["common"] == ""), "note"] != "").all()


def test_a_fine_class_and_its_common_one_agree():
    maps = read_label_maps().query("harmonised != '' and common != ''")
    assert all(row.harmonised.startswith(row.common) for row in maps.itertuples())
    assert set(read_label_maps()["common"]) - {""} == set(COMMON_CLASSES)


def test_spelling_does_not_matter():
    assert harmonise_labels(["neutrophil band", "Neutrophil-Band"], "mll23").label.tolist() == ["neutrophil_banded"] * 2


def test_common_scheme():
    found = harmonise_labels(["SNE", "NEUTROPHIL", "ERB"], "acevedo-20", scheme="common")
    assert found.label.tolist() == ["neutrophil", "neutrophil", ""]
    np.testing.assert_array_equal(found.kept, [True, True, False])


@pytest.mark.parametrize(
    ("codes", "dataset", "scheme", "message"),
    [
        (["SNE", "XYZ"], "acevedo-20", "common", r"Row 1: 'XYZ' is not a code of acevedo-20, which has BA.*Fix:"),
        (["SNE"], "nowhere", "common", "Got dataset='nowhere' but there are maps for acevedo-20.*Fix:"),
        (["SNE"], "acevedo-20", "seven", "Got scheme='seven' but expected one of harmonised, common. Fix: "),
    ],
)
def test_unknown_things_are_errors(codes, dataset, scheme, message):
    with pytest.raises(ValueError, match=message):
        harmonise_labels(codes, dataset, scheme=scheme)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_a_missing_code_names_its_row(missing):
    with pytest.raises(ValueError, match=r"Row 1: the code is missing\. Fix: fill it in"):
        harmonise_labels(["SNE", missing], "acevedo-20")


def test_an_unknown_code_of_a_column_is_named_by_its_place():
    codes = pd.Series(["SNE", "XYZ"], index=[1, 0])
    with pytest.raises(ValueError, match="Row 1: 'XYZ' is not a code"):
        harmonise_labels(codes, "acevedo-20")


def test_codes_of_any_alphabet(tmp_path):
    csv = tmp_path / "mine.csv"
    lymphocyte, monocyte = "\u6dcb\u5df4\u7ec6\u80de", "\u5355\u6838\u7ec6\u80de"
    rows = f"mine,{monocyte},,monocyte\nmine,{lymphocyte},,lymphocyte\nmine,K\u00f6rnig,,neutrophil\n"
    csv.write_text(f"dataset,code,harmonised,common\n{rows}", encoding="utf-8")
    codes = [lymphocyte, monocyte, "Ko\u0308rnig"]
    found = harmonise_labels(codes, "mine", scheme="common", maps=csv)
    assert found.label.tolist() == ["lymphocyte", "monocyte", "neutrophil"]


def test_users_add_maps(tmp_path):
    csv = tmp_path / "mine.csv"
    csv.write_text("# ours\ndataset,code,harmonised,common\nmine,G,neutrophil_segmented,neutrophil\nmine,X,,\n")
    found = harmonise_labels(["X", "G"], "mine", maps=csv)
    assert found.label.tolist() == ["", "neutrophil_segmented"]
    assert found.version is None
    both = pd.concat([read_label_maps(), read_label_maps(csv)])
    assert harmonise_labels(["SNE"], "acevedo-20", maps=both).kept.all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset,code,common\nm,G,neutrophil\n", r"lacks the column\(s\) harmonised"),
        ("dataset,code,harmonised,common\nm,G,neutrofil,\n", "row 0: 'neutrofil' is not a harmonised class"),
        ("dataset,code,harmonised,common\nm,G,,\nm,g,,\n", "maps the code 'g' of m twice"),
    ],
)
def test_bad_maps_name_the_row(text, message, tmp_path):
    csv = tmp_path / "mine.csv"
    csv.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_label_maps(csv)
