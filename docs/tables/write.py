"""Write the tables that have a results file into results.md and the README, between their markers.

    python docs/tables/write.py

The numbers come from the CSVs beside this file, which the benchmarks of the same names wrote; a test fails where a page
and its file differ.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
PAGES = (HERE.parent / "results.md", HERE.parents[1] / "README.md")
LABORATORIES = ("tecom", "acevedo", "cellavision")
METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
ORDER = (
    "pooled embeddings", "pooled, standardised by laboratory", "vector (default)", "vector, domain",
    "vector, not aligned", "vector, mean", "vector, coral", "vector, mmd", "vector, sinkhorn",
)  # fmt: skip
COMPARED = {"pooled embeddings": "pooled", "pooled, standardised by laboratory": "standardised", ORDER[2]: ORDER[2]}
IN_THE_README = {
    ORDER[0]: ORDER[0],
    ORDER[1]: "the same, standardised by laboratory",
    ORDER[2]: "with `CrossDomainAutoencoder`, default settings",
}
# arXiv 2412.02976, in the order of LABORATORIES.
SADA = ("84.3 / 62.6", "79.9 / 81.6", "")


def leave_one_laboratory_out() -> str:
    """F1 micro (the accuracy) and macro in percent, with spread over seeds and bootstrap interval."""
    table = pd.read_csv(HERE / "leave_one_laboratory_out.csv")
    lines = []
    for (features, classifier), rows in table.groupby(["features", "classifier"], sort=False):
        by_lab = rows.set_index("test_domain")
        lines.append([features, classifier, *(_left_out(by_lab.loc[lab]) for lab in LABORATORIES)])
    return _table(["features", "classifier", *LABORATORIES], [*lines, ["SADA, as published", "", *SADA]])


def transductive() -> str:
    """Balanced accuracy by classifier, the autoencoder fitted on the unlabelled cells of all laboratories."""
    return _by_classifier("transductive")


def inductive() -> str:
    """Balanced accuracy by classifier, the autoencoder fitted on the training laboratory alone."""
    return _by_classifier("inductive")


def metrics() -> str:
    """All metrics, mean over pairs and classifiers, with the spread over seeds."""
    per_seed = _scores("transductive").groupby(["features", "seed"])[list(METRICS)].mean()
    lines = [[name, *(_spread(per_seed.loc[name, metric]) for metric in METRICS)] for name in ORDER]
    return _table(["features", *METRICS.values()], lines)


def pairs() -> str:
    """Balanced accuracy of logistic regression for every pair of laboratories."""
    scores = _scores("transductive").query("classifier == 'LR'").set_index(["pair", "features"]).sort_index()
    names = scores.index.get_level_values("pair").unique()
    lines = [[pair, *(_spread(scores.loc[(pair, name), "balanced_accuracy"]) for name in COMPARED)] for pair in names]
    return _table(["trained -> tested (LR)", *COMPARED.values()], lines)


def readme() -> str:
    """Balanced accuracy of some classifiers, means alone."""
    means = _scores("transductive").groupby(["features", "classifier"])["balanced_accuracy"].mean()
    classifiers = ["RF", "SVM rbf", "LR", "MLP", "XGBoost"]
    best = means.loc[list(IN_THE_README)].groupby("classifier").max()

    def cell(name: str, classifier: str) -> str:
        shown = f"{means[name, classifier]:.2f}"
        return f"**{shown}**" if means[name, classifier] == best[classifier] else shown

    lines = [[shown, *(cell(name, classifier) for classifier in classifiers)] for name, shown in IN_THE_README.items()]
    return _table(["balanced accuracy, mean over the six pairs", *classifiers], lines)


def _by_classifier(protocol: str) -> str:
    scores = _scores(protocol)
    classifiers = scores["classifier"].unique().tolist()
    per_seed = scores.groupby(["features", "seed", "classifier"])["balanced_accuracy"].mean().unstack()[classifiers]  # noqa: PD010
    lines = []
    for name in (name for name in ORDER if name in per_seed.index):
        seeds = per_seed.loc[name]
        columns = [*(seeds[each] for each in classifiers), seeds.mean(axis=1)]
        lines.append([name, str(len(seeds)), *map(_spread, columns)])
    return _table(["features", "seeds", *classifiers, "mean"], lines)


def _scores(protocol: str) -> pd.DataFrame:
    table = pd.read_csv(HERE / "autoencoder_quality.csv")
    return table[table["protocol"] == protocol]


def _spread(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std():.3f}"


def _left_out(row: pd.Series) -> str:
    micro, macro, spread = 100 * row["accuracy_mean"], 100 * row["macro_f1_mean"], 100 * row["macro_f1_std"]
    return f"{micro:.1f} / {macro:.1f} ± {spread:.1f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in [header, *lines]]
    return "\n".join([rows[0], "|---" * len(header) + "|", *rows[1:]])


TABLES = {made.__name__: made for made in (leave_one_laboratory_out, transductive, inductive, metrics, pairs, readme)}


def written(page: str) -> str:
    """Return the page with its tables as the files have them."""
    marked = r"(?<=<!-- table: )(\w+)( -->\n\n).*?(?=\n\n<!-- end -->)"
    return re.sub(marked, lambda found: found[1] + found[2] + TABLES[found[1]](), page, flags=re.DOTALL)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
