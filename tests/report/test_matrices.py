import pandas as pd

from sam_bloodcell.report.matrices import recall_matrix, shade


def recall_table(domains, classes=("x", "y")):
    pairs = [(train, test) for train in domains for test in domains]
    rows = [(label, train, test, 0.9 if train == test else 0.5) for train, test in pairs for label in classes]
    return pd.DataFrame(rows, columns=["label", "train_domain", "test_domain", "recall"])


def counts_of(domains, classes=("x", "y")):
    return pd.DataFrame({domain: [10 * i + 1, 10 * i + 2] for i, domain in enumerate(domains)}, index=list(classes))


def test_recall_has_a_column_for_each_direction():
    recall = recall_table("ab")
    recall = recall[(recall["label"] == "x") | (recall["train_domain"] == "a")]
    matrix = recall_matrix(recall, counts_of("ab"))
    assert matrix["groups"] == [("a", 2), ("b", 2)]
    assert matrix["columns"] == ["a", "b", "a", "b"]
    assert matrix["rows"] == [
        ("x", [(0.9, 1), (0.5, 11), (0.5, 1), (0.9, 11)]),
        ("y", [(0.9, 2), (0.5, 12), None, None]),
    ]


def test_recall_of_many_laboratories_has_a_column_for_each_tested_one():
    matrix = recall_matrix(recall_table("abcdef"), counts_of("abcdef"))
    assert matrix["groups"] == []
    assert matrix["columns"] == list("abcdef")
    assert matrix["rows"][0] == ("x", [(0.5, 10 * i + 1) for i in range(6)])


def test_shades_go_from_the_lowest_to_the_highest_value():
    assert [shade(value) for value in (-0.1, 0, 0.24, 0.5, 1, 1.2)] == [0, 0, 2, 5, 10, 10]
