import pytest

from sam_bloodcell.evaluation.findings import Interval, Verdict
from sam_bloodcell.report.words import judge, used_terms


def interval(value, low, high, chance=0.2, n=6):
    return Interval(value, low, high, chance, n)


WITHIN = interval(0.97, 0.95, 0.99, n=3)
GOOD = {"within": WITHIN, "across": interval(0.94, 0.91, 0.96), "weakest_pair": ("a", "b", 0.9, 50)}


@pytest.mark.parametrize(
    ("parts", "level", "answer"),
    [
        (GOOD | {"weakest_class": ("x", 0.85, 20)}, "yes", "Yes, between these laboratories"),
        (GOOD | {"weakest_class": ("x", 0.6, 20)}, "care", "Only with checks"),
        (GOOD | {"weakest_pair": ("a", "b", 0.7, 50)}, "care", "Only with checks"),
        (GOOD | {"across": interval(0.94, 0.85, 0.99)}, "care", "Only with checks"),
        (GOOD | {"across": interval(0.65, 0.6, 0.7)}, "no", "finds 65% of a class's cells in another"),
        (GOOD | {"across": interval(0.75, 0.45, 0.9, chance=0.5)}, "no", "not clearly better than chance (50%)"),
        (GOOD | {"across": interval(0.94, float("nan"), float("nan"))}, "yes", "Yes, between these laboratories"),
        ({"within": interval(0.9, 0.8, 1, n=1)}, "unknown", "Add a second laboratory"),
        ({"within": WITHIN}, "unknown", "No two laboratories share a class"),
        ({}, "unknown", "nothing could be scored"),
    ],
)  # fmt: skip
def test_the_answer_follows_from_the_verdict(parts, level, answer):
    got = judge(Verdict("autoencoder", "LR", **parts))
    assert got[0] == level
    assert answer in got[1]


def test_a_glossary_has_the_terms_of_the_page_and_no_others():
    terms = dict(used_terms('<p title="MMD">The recall of an <b>SVM rbf</b></p><style>.mask { }</style>'))
    assert list(terms) == ["recall", "SVM"]
    assert "radial basis function" in terms["SVM"]


def test_a_deviation_and_an_interval_say_what_varies():
    terms = dict(used_terms("<p>0.9 &plusmn; 0.1, 95% interval</p>"))
    assert terms["standard deviation (±)"].endswith("in the table of a few labels, over the draws.")
    assert "choice of the tested cells" in terms["interval"]
