"""Summaries of a table of predictions: its wrong answers, and a few sentences."""

from collections.abc import Iterator

import pandas as pd

_MOST_LISTED = 10  # wrong answers


def has_label(table: pd.DataFrame) -> pd.Series:
    """Tell which rows have a label."""
    return table["label"].notna() & (table["label"].astype(str).str.strip() != "")


def wrong_answers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose label differs from the answer, the most confident ones first; none without labels."""
    if "label" not in table:
        return table.iloc[:0]
    wrong = has_label(table) & (table["label"].astype(str) != table["predicted"].astype(str))
    return table[wrong].sort_values("confidence", ascending=False, kind="stable")


def as_benchmark(table: pd.DataFrame) -> pd.DataFrame:
    """Return the wrong answers with the columns of a benchmark's predictions, for `plotting.plot_mistakes`."""
    wrong = wrong_answers(table.reset_index(drop=True))
    domain = wrong["domain"].fillna("unknown") if "domain" in wrong else "unknown"
    return wrong.assign(row=wrong.index, train_domain="training", test_domain=domain, known=True)


def describe_predictions(table: pd.DataFrame) -> Iterator[str]:
    """Yield sentences about the table of `CellClassifier.predict_table`: counts, doubts and, with labels, mistakes."""
    counts = ", ".join(f"{n} {name}" for name, n in table["predicted"].value_counts().items())
    yield f"{_number(len(table), 'cell')}: {counts}."
    if n := int(table["unknown"].sum()):
        yield f"Cells unlike the training cells (column unknown): {n}. Look at them before you trust these answers."
    if n := int(table["quality_fallback"].sum()):
        yield f"Images in which no cell was found (column quality_fallback): {n}. The whole image was classified."
    if n := int((table["copy_of"] != "").sum()):
        yield f"Images that look like copies of training cells (column copy_of): {n}. Do not count them as new cells."
    if "label" in table:
        yield from _describe_mistakes(table)


def _describe_mistakes(table: pd.DataFrame) -> Iterator[str]:
    classes = [str(name).removeprefix("probability_") for name in table if str(name).startswith("probability_")]
    labelled = table[has_label(table)]
    labels = labelled["label"].astype(str)
    known = labels.isin(classes)
    if known.any():
        right = (labels == labelled["predicted"].astype(str))[known]
        recall = right.groupby(labels[known]).mean()
        cells = _number(int(known.sum()), "cell")
        by_class = ", ".join(f"{name} {share:.2f}" for name, share in recall.items())
        yield (
            f"The balanced accuracy on the given labels is {recall.mean():.2f} on {cells} whose class the model knows "
            f"(recall: {by_class})."
        )
    for name, n in labels[~known].value_counts().items():
        yield f"The model does not know the class {name}, so the {_number(n, 'answer')} for its cells cannot be right."
    wrong = wrong_answers(table)
    if len(wrong):
        yield f"Answers that differ from the label: {len(wrong)}. The most confident ones are:"
    for row in wrong.head(_MOST_LISTED).itertuples():
        yield f"  {row.path}: labelled {row.label}, answered {row.predicted} ({row.confidence:.2f})"


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
