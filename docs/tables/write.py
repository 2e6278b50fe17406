"""Write the tables of the pages and the README, between their markers, from the files that programs wrote.

    python docs/tables/write.py

A CSV beside this file is what the benchmark of the same name wrote (`--out`), a text file what it printed; the masks'
figures are in the packaged weights' training log. A test fails where a page and its file differ.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
PAGES = [HERE.parent / f"{name}.md" for name in ("results", "vit_tiny", "weights", "scale")]
PAGES.append(HERE.parents[1] / "README.md")
TRAINING_LOG = HERE.parents[1] / "src/sam_bloodcell/weights/vit_tiny/training_log.json"
LABORATORIES = ("tecom", "acevedo", "cellavision")
METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
ORDER = (
    "pooled embeddings", "pooled, standardised by laboratory", "vector (default)", "vector, domain",
    "vector, not aligned", "vector, mean", "vector, mmd",
)  # fmt: skip
MAPS = (
    "conv, cluster", "conv, cluster, 10 epochs", "conv, not aligned", "preset bc-sam, 32 px crops",
    "preset bc-sam, 32 px crops, 10 epochs", "masked, cluster", "masked, not aligned",
    "preset dorl, 32 px crops",
)  # fmt: skip
PROBED = {
    "vit_tiny": "**vit_tiny**",
    "random vit_tiny": "vit_tiny, random weights",
    "colour histogram": "colour histogram",
    "pixels, PCA": "pixels, PCA",
    "small CNN": "small CNN, trained on the source's labels",
}
PROBES = {"LR": "LR", "SVM rbf": "SVM rbf", "kNN": "kNN", "RF": "RF", "CNN": "itself"}
SETTINGS = {
    "in domain": "in domain, 5-fold",
    "eleven": "eleven",
    "across": "across",
    "across, standardised": "across, standardised",
}
NOVELTY = {"at home": "acevedo, other half", "tecom": "tecom", "cellavision": "cellavision"}
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
    return _by_classifier("transductive", ORDER)


def token_maps() -> str:
    """Balanced accuracy by classifier of the architectures that see token maps."""
    return _by_classifier("transductive", MAPS)


def inductive() -> str:
    """Balanced accuracy by classifier, the autoencoder fitted on the training laboratory alone."""
    return _by_classifier("inductive", ORDER)


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


def backbone() -> str:
    """Balanced accuracy of probes on features, mean over laboratories or pairs."""
    table = pd.read_csv(HERE / "backbone_quality.csv")
    per_seed = table.groupby(["features", "probe", "setting", "seed"])["value"].mean()
    lines = []
    for name, shown in PROBED.items():
        for probe in (probe for probe in PROBES if probe in per_seed[name].index):
            found = per_seed[name, probe]
            by_setting = {setting: found.get(setting, pd.Series(dtype=float)) for setting in SETTINGS}
            by_setting["eleven"] = by_setting["eleven"][:1]  # one split: nothing is drawn
            lines.append([shown, PROBES[probe], *map(_spread, by_setting.values())])
    return _table(["features", "probe", *SETTINGS.values()], lines)


def masks() -> str:
    """Dice and IoU on cells that training did not see, of laboratories that it saw and of those that it did not."""
    log = json.loads(TRAINING_LOG.read_text(encoding="utf-8"))
    lines = []
    for part, seen in {"unseen": "yes", "left_out": "no"}.items():
        for lab, found in log[part].items():
            scores = (f"{found[name]:.3f}" for name in ("dice_mean", "dice_std", "dice_min", "iou_mean"))
            lines.append([lab, seen, str(found["cells"]), *scores])
    return _table(["laboratory", "in training", "cells", "Dice mean", "Dice std", "Dice min", "IoU mean"], lines)


def pseudo_masks() -> str:
    """Dice of masks made from the stain."""
    lines = [
        [lab, f"{len(dice)} {split}", _spread(dice), f"{dice.median():.3f}", f"{(dice > 0.8).mean():.0%}"]
        for (lab, split), dice in pd.read_csv(HERE / "pseudo_masks.csv").groupby(["domain", "split"])["dice"]
    ]
    return _table(["laboratory", "cells", "Dice, mean ± standard deviation", "median", "above 0.8"], lines)


def novelty() -> str:
    """AUROC over types and seeds, and the shares of known and new cells that still get an answer."""
    table = pd.read_csv(HERE / "novelty.csv").groupby(["tested", "criterion", "features"])
    lines = []
    for tested, shown in NOVELTY.items():
        for criterion in ("neighbours", "mahalanobis", "confidence"):
            cells = [_told_apart(table.get_group((tested, criterion, each))) for each in ("embeddings", "autoencoder")]
            lines.append([shown if criterion == "neighbours" else "", criterion, *cells])
    return _table(["tested", "criterion", "embeddings", "`CrossDomainAutoencoder` features"], lines)


def default_classifier() -> str:
    """Balanced accuracy and expected calibration error of each logistic regression, within and across laboratories."""
    table = pd.read_csv(HERE / "default_classifier.csv")
    lines = []
    for name, rows in table.groupby("classifier", sort=False):
        found = rows.set_index(["laboratories", "where"])
        columns = [(group, where) for group in ("chosen on", "tested on") for where in ("within", "across")]
        cells = [f"{found.loc[key, 'balanced_accuracy']:.2f} / {found.loc[key, 'ece']:.2f}" for key in columns]
        lines.append([*str(name).split(", "), *cells])
    heads = ["within", "across", "within, others", "across, others"]
    return _table(["strength", "class weights", "calibration", *heads], lines)


def few_labels() -> str:
    """Balanced accuracy, with its spread over seeds and draws, and expected calibration error, by number of labels."""
    table = pd.read_csv(HERE / "few_labels.csv")
    numbers, lines = sorted(table["n_labels"].unique()), []
    for name, rows in table.groupby("test_domain", sort=False):
        for chosen in ("random", "informative"):
            cells = []
            for number in numbers:
                found = rows[(rows["n_labels"] == number) & rows["chosen"].isin([chosen, "none"])]
                scores = found["balanced_accuracy"]
                spread = f"{scores.mean():.2f} ± {scores.std():.2f} / {found['ece'].mean():.2f}"
                cells.append("" if found.empty else spread)
            lines.append([str(name) if chosen == "random" else "", chosen, *cells])
    return _table(["new laboratory", "chosen", *(f"{number} labels" for number in numbers)], lines)


def _told_apart(rows: pd.DataFrame) -> str:
    auroc, known, new = rows["auroc"], rows["known answered"].mean(), rows["new answered"].mean()
    return f"{auroc.mean():.2f} ± {auroc.std():.2f} ({known:.0%}, {new:.0%})"


def _by_classifier(protocol: str, order: Sequence[str]) -> str:
    scores = _scores(protocol)
    classifiers = scores["classifier"].unique().tolist()
    per_seed = scores.groupby(["features", "seed", "classifier"])["balanced_accuracy"].mean().unstack()[classifiers]  # noqa: PD010
    lines = []
    for name in (name for name in order if name in per_seed.index):
        seeds = per_seed.loc[name]
        columns = [*(seeds[each] for each in classifiers), seeds.mean(axis=1)]
        lines.append([name, str(len(seeds)), *map(_spread, columns)])
    return _table(["features", "seeds", *classifiers, "mean"], lines)


def _scores(protocol: str) -> pd.DataFrame:
    table = pd.read_csv(HERE / "autoencoder_quality.csv")
    return table[table["protocol"] == protocol]


def _spread(values: pd.Series) -> str:
    if values.empty:
        return ""
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def _left_out(row: pd.Series) -> str:
    micro, macro, spread = 100 * row["accuracy_mean"], 100 * row["macro_f1_mean"], 100 * row["macro_f1_std"]
    return f"{micro:.1f} / {macro:.1f} ± {spread:.1f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in [header, *lines]]
    return "\n".join([rows[0], "|---" * len(header) + "|", *rows[1:]])


def _printed(file: Path) -> str:
    return "\n".join(["```text", *file.read_text(encoding="utf-8").splitlines(), "```"])


MADE = (
    leave_one_laboratory_out, transductive, inductive, token_maps, metrics, pairs, readme, backbone, masks,
    pseudo_masks, novelty, default_classifier, few_labels,
)  # fmt: skip
TABLES: dict[str, Callable[[], str]] = {made.__name__: made for made in MADE}
TABLES |= {file.stem: partial(_printed, file) for file in HERE.glob("*.txt")}


def written(page: str) -> str:
    """Return the page with its tables as the files have them."""
    marked = r"(?<=<!-- table: )(\w+)( -->\n\n).*?(?=\n\n<!-- end -->)"
    return re.sub(marked, lambda found: found[1] + found[2] + TABLES[found[1]](), page, flags=re.DOTALL)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
