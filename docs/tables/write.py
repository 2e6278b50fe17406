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
PAGES = [HERE.parent / f"{name}.md" for name in ("vit_tiny", "weights", "scale", "encoders")]
PAGES += [*sorted((HERE.parent / "results").glob("*.md")), HERE.parents[1] / "README.md"]
TRAINING_LOG = HERE.parents[1] / "src/sam_bloodcell/weights/vit_tiny/training_log.json"
LABORATORIES = ("tecom", "acevedo", "cellavision")
METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
ORDER = (
    "pooled embeddings", "pooled, standardised by laboratory", "linear (default)", "linear, domain", "vector, cluster",
    "vector, domain", "vector, not aligned", "vector, mean", "vector, mmd",
)  # fmt: skip
MAPS = ("conv, cluster", "conv, cluster, 10 epochs", "conv, not aligned", "masked, cluster", "masked, not aligned")
CANDIDATE_SETTINGS = ("pairs", "left out")
PROBED = {
    "vit_tiny": "**vit_tiny**",
    "random vit_tiny": "vit_tiny, random weights",
    "colour histogram": "colour histogram",
    "pixels, PCA": "pixels, PCA",
    "small CNN": "small CNN, trained on the labels of the training laboratory",
}
PROBES = {"LR": "LR", "SVM rbf": "SVM rbf", "kNN": "kNN", "RF": "RF", "CNN": "itself"}
SETTINGS = {
    "in domain": "within a laboratory, 5 folds",
    "eleven": "eleven",
    "across": "across laboratories",
    "across, standardised": "across laboratories, standardised",
}
NOVELTY = {"at home": "acevedo, other half", "tecom": "tecom", "cellavision": "cellavision"}
COMPARED = {"pooled embeddings": "pooled", "pooled, standardised by laboratory": "standardised", ORDER[2]: ORDER[2]}
IN_THE_README = {
    "pooled": "embeddings of `SAMLoRAEmbedder`",
    "standardised": "embeddings standardised by laboratory",
    "autoencoder, transductive": "aligned by `CrossDomainAutoencoder`, default settings",
    "autoencoder, transductive, smoothed": "aligned, and answers smoothed by `NeighborSmoothedClassifier`",
}
# The methods of benchmarks/laboratories.py, and whether they see the tested laboratory's unlabelled cells.
METHODS = {
    "ImageNet": "no", "pooled": "no", "pooled, stain views": "no", "autoencoder, inductive": "no",
    "best inductive": "no", "ImageNet, standardised": "yes", "pooled, smoothed": "yes",
    "autoencoder, inductive, smoothed": "yes", "pooled, stain views, smoothed": "yes", "standardised": "yes",
    "standardised, smoothed": "yes", "autoencoder, transductive": "yes",
    "autoencoder, transductive, smoothed": "yes", "autoencoder, fitted on both": "yes",
    "autoencoder, fitted on both, smoothed": "yes", "best of all": "either",
}  # fmt: skip
LABORATORY_SETTINGS = {"pair": "30 pairs", "two": "two train", "three": "three train", "left out": "one left out"}
PRETRAINED = dict.fromkeys(LABORATORIES, True) | {"jhu": False, "munich_bm": True, "leukocytes": False}
MIXTURES = ("as it is", "balanced", "healthy", "one class missing", "one class only", "with its other cells")
FINE = ("pooled", "standardised", "standardised, smoothed", "autoencoder, inductive", "autoencoder, transductive")
COMPARED_SIGNS = ("pooled", "autoencoder, inductive")
SHOWN_SIGNS = (
    "predicted mixtures differ", "largest predicted class, inductive", "confidence lost", "little spread of the cells",
)  # fmt: skip
# arXiv 2412.02976, in the order of LABORATORIES.
SADA = {
    "SADA's baseline, as published": ("77.8 / 55.4", "70.0 / 71.3", ""),
    "SADA, as published": ("84.3 / 62.6", "79.9 / 81.6", ""),
}
PUBLISHED_TRANSFER = {"matek": "Matek-19", "mll23": "MLL23", "raabin": "Raabin-WBC"}


def leave_one_laboratory_out() -> str:
    """F1 micro (the accuracy) and macro in percent, with spread over seeds and bootstrap interval."""
    table = pd.read_csv(HERE / "leave_one_laboratory_out.csv")
    lines = []
    for (classes, features, classifier), rows in table.groupby(["classes", "features", "classifier"], sort=False):
        by_lab = rows.set_index("test_domain")
        lines.append([str(classes), features, classifier, *(_left_out(by_lab.loc[lab]) for lab in LABORATORIES)])
    published = [["5", name, "", *scores] for name, scores in SADA.items()]
    return _table(["classes", "features", "classifier", *LABORATORIES], [*lines, *published])


def default_autoencoder() -> str:
    """Balanced accuracy of candidates for the default, with the spread over seeds."""
    table = pd.read_csv(HERE / "default_autoencoder.csv").set_index(["candidate", "setting", "C"])
    columns = [(setting, strength) for setting in CANDIDATE_SETTINGS for strength in (0.01, 0.1)]
    lines = []
    for candidate in table.index.unique("candidate"):
        found = [table.loc[(candidate, *column)] for column in columns]
        lines.append([candidate, *(f"{row['mean']:.3f} ± {row['std']:.3f}" for row in found)])
    return _table(["features", *(f"{setting}, C={strength}" for setting, strength in columns)], lines)


def default_autoencoder_nested() -> str:
    """Which candidate is chosen without a laboratory, and its balanced accuracy where this laboratory is tested."""
    table = pd.read_csv(HERE / "default_autoencoder_nested.csv")
    lines = [
        [row["laboratory"], row["chosen"], *(f"{row[name]:.3f}" for name in table.columns[2:])]
        for row in table.to_dict("records")
    ]
    means = table[table.columns[2:]].mean()
    return _table([*table.columns], [*lines, ["mean", "", *(f"{value:.3f}" for value in means)]])


def published_transfer() -> str:
    """Macro-F1 of networks trained on Acevedo-20, as published and, where somebody ran the command, ours."""
    table = pd.read_csv(HERE / "published_transfer.csv")
    lines = []
    for (source, features), rows in table.groupby(["source", "features"], sort=False):
        scores = rows.set_index("tested")["macro_f1"].map("{:.3f}".format)
        lines.append([features, source, *(scores.get(name, "") for name in PUBLISHED_TRANSFER)])
    return _table(["features", "source", *PUBLISHED_TRANSFER.values()], lines)


def encoders() -> str:
    """Size, licence, input and speed of each encoder, and its published score across laboratories, if there is one."""
    table = pd.read_csv(HERE / "encoders.csv", dtype=str, keep_default_na=False)
    speed = pd.read_csv(HERE / "encoder_speed.csv")
    speed = speed[speed["device"].str.startswith("CPU")]
    published = pd.read_csv(HERE / "published_transfer.csv").query("source == 'published'")
    lines = []
    for row in table.to_dict("records"):
        measured = speed[speed["network"] == row["network"]].set_index("dtype")
        parameters = row["parameters"] or ", ".join({f"{n / 1e6:.0f} M" for n in measured["parameters"]})
        rates = [f"{measured['ours'][t]:.1f}" if t in measured.index else "" for t in ("float32", "bfloat16")]
        scores = published[published["features"] == row["encoder"]].set_index("tested")["macro_f1"]
        told = " / ".join(f"{scores[name]:.3f}" for name in PUBLISHED_TRANSFER if name in scores)
        size = [parameters, row["download"], row["licence"], row["patch"], row["image_size"]]
        lines.append([row["encoder"], row["backbone"], *size, *rates, told])
    header = ["encoder", "`backbone=`", "parameters", "weights", "licence", "patch", "image"]
    return _table([*header, "images/s, float32", "bfloat16", "Matek-19 / MLL23 / Raabin-WBC"], lines)


def encoder_speed() -> str:
    """Images per second of each network's forward pass, ours and transformers', and of its linear layers alone."""
    table = pd.read_csv(HERE / "encoder_speed.csv")
    lines = [
        [
            *(row[name] for name in ("device", "network", "dtype")),
            *(f"{row[way]:.1f}" for way in ("ours", "transformers", "linear")),
            f"{row['ours'] / row['transformers']:.2f}", f"{row['linear'] / row['ours']:.2f}",
        ]
        for row in table.to_dict("records")
    ]  # fmt: skip
    ways = ["ours", "`transformers`", "bare linear layers"]
    return _table(["device", "network", "type", *ways, "ours / `transformers`", "bare / ours"], lines)


def transductive() -> str:
    """Balanced accuracy by classifier, the autoencoder fitted on the unlabelled cells of all laboratories."""
    return _by_classifier("transductive", ORDER)


def token_maps() -> str:
    """Balanced accuracy by classifier of the architectures that see token maps."""
    return _by_classifier("transductive", MAPS)


def papers_designs() -> str:
    """Balanced accuracy of the papers' presets and of averages of their input, as they are and standardised."""
    table = pd.read_csv(HERE / "papers_designs.csv").set_index(["features", "standardised", "classifier"])
    shown = {"mean": "mean of classifiers", "LR": "LR", "RF": "RF", "MLP": "MLP"}
    lines = []
    for features in table.index.unique("features"):
        found = [table.loc[(features, scaled, name)] for scaled in (False, True) for name in shown]
        lines.append([features, *(f"{row['mean']:.3f} ± {row['std']:.3f}" for row in found)])
    heads = [*shown.values(), *(f"standardised: {name}" for name in shown.values())]
    return _table(["features", *heads], lines)


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
    """Balanced accuracy over six laboratories, with a strength of the classifier that was chosen on other ones."""
    table = pd.read_csv(HERE / "laboratories.csv", dtype={"C": str}).query("C == 'chosen'")
    means = table.groupby(["method", "setting"])["balanced_accuracy"].mean()
    columns = {"pair": "trained in one laboratory (30 pairs)", "left out": "trained in five"}
    lines = [
        [shown, METHODS[name], *(f"{means[name, column]:.2f}" for column in columns)]
        for name, shown in IN_THE_README.items()
    ]
    title = "balanced accuracy in a laboratory whose labels were not used"
    return _table([title, "transductive", *columns.values()], lines)


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
    trained = log["encoder"]["laboratories"]
    measured = [(lab, "yes" if lab in trained else "no", found) for lab, found in log["unseen"].items()]
    measured += [(lab, "no, separate training", found) for lab, found in log["left_out"].items()]
    lines = []
    for lab, seen, found in measured:
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


def laboratories() -> str:
    """Balanced accuracy over six laboratories, mean and spread over the tested ones, by setting."""
    return _by_setting(("chosen", "0.01"), lambda found: f"{found[0].mean():.3f} ± {found[0].std():.2f}")


def laboratories_fixed() -> str:
    """Balanced accuracy over six laboratories with two strengths that were not chosen."""
    return _by_setting(("0.1", "0.01"), lambda found: " / ".join(f"{scores.mean():.3f}" for scores in found))


def laboratories_each() -> str:
    """Balanced accuracy in every left-out laboratory."""
    table = pd.read_csv(HERE / "laboratories.csv", dtype={"C": str}).query("setting == 'left out'")
    means = table.groupby(["method", "C", "tested"])["balanced_accuracy"].mean()
    labs = list(PRETRAINED)
    lines = [["*images in vit_tiny's pretraining*", *("yes" if seen else "no" for seen in PRETRAINED.values())]]
    for method in (name for name in METHODS if name in means.index.levels[0]):
        strength = "chosen" if (method, "chosen") in means.index else "0.01"
        lines.append([method, *(f"{means[method, strength, lab]:.3f}" for lab in labs)])
    return _table(["one laboratory left out", *labs], lines)


def laboratories_mixtures() -> str:
    """Balanced accuracy under each mixture of classes, mean over the tested laboratories."""
    return "\n\n".join(_mixtures(setting, "balanced_accuracy") for setting in ("left out", "pair"))


def laboratories_calibration() -> str:
    """Macro-F1, calibration error, share of answers and their accuracy, for three mixtures, one laboratory left out."""
    found = _mixed("left out")
    names = ("as it is", "healthy", "one class only")
    lines = []
    for method in (name for name in METHODS if (name, "healthy") in found.index):
        rows = found.loc[method]
        answered = (f"{rows.loc[n, 'answered']:.0%}, {rows.loc[n, 'right_of_answered']:.2f}" for n in names)
        scores = (f"{rows.loc[n, 'macro_f1']:.2f} / {rows.loc[n, 'ece']:.2f}" for n in names)
        lines.append([method, *scores, *answered])
    heads = [*(f"{name}: F1 / ECE" for name in names), *(f"{name}: answered, right" for name in names)]
    return _table(["method", *heads], lines)


def laboratories_fine() -> str:
    """Balanced accuracy in the fine classes that two laboratories share, and within a laboratory."""
    table = pd.read_csv(HERE / "laboratories_fine.csv", dtype={"C": str})
    return _table(["", "classes", *FINE], [
        [where, str(rows["classes"].iloc[0]), *(_one(rows, method) for method in FINE)]
        for where, rows in table.groupby("where", sort=False)
    ])  # fmt: skip


def laboratories_signs() -> str:
    """Balanced accuracy of rules by label-free signs on laboratories that they were not chosen on."""
    table = pd.read_csv(HERE / "laboratories_signs.csv").query("setting == 'left out'")
    lines = []
    for row in table[table["inductive"].isin(COMPARED_SIGNS)].to_dict("records"):
        if row["sign"] in SHOWN_SIGNS:
            pair, scores = f"{row['inductive']} / {row['transductive']}", ("always inductive", "always transductive")
            numbers = [f"{row[name]:.3f}" for name in (*scores, "by rule")]
            lines.append(
                [pair, row["mixtures"], row["sign"], f"{row['auroc']:.2f}", *numbers, f"{row['splits won']:.0%}"]
            )
    heads = ["AUROC", "always inductive", "always transductive", "by rule", "splits won"]
    return _table(["compared", "draws", "sign", *heads], lines)


def mixture_warning() -> str:
    """Share of draws with a warning, and the balanced accuracy with and without the name of the laboratory there."""
    table = pd.read_csv(HERE / "mixture_warning.csv").set_index(["setting", "mixture"])
    settings = {"pair": "30 pairs", "left out": "one left out"}
    lines = []
    for mixture in table.index.unique("mixture"):
        rows = [table.loc[(setting, mixture)] for setting in settings]
        pairs = [[row["named, warned"], row["nameless, warned"]] for row in rows]
        scores = ["" if pd.isna(named) else f"{named:.2f} / {nameless:.2f}" for named, nameless in pairs]
        lines.append([mixture, *(f"{row['warned']:.0%}" for row in rows), *scores])
    heads = [f"{name}: {what}" for what in ("warned", "with the name / without it") for name in settings.values()]
    return _table(["draws", *heads], lines)


def _by_setting(strengths: Sequence[str], shown: Callable[[list[pd.Series]], str]) -> str:
    """Show what is known of each method and setting, at those of the strengths at which it was measured."""
    table = pd.read_csv(HERE / "laboratories.csv", dtype={"C": str})
    found = table.groupby(["setting", "method", "C", "tested"])["balanced_accuracy"].mean()
    lines = []
    for method, sees in METHODS.items():
        keys = [[(setting, method, each) for each in strengths] for setting in LABORATORY_SETTINGS]
        known = [[found[key] for key in each if key in found.index] for each in keys]
        if any(known):
            lines.append([method, sees, *(shown(scores) if scores else "" for scores in known)])
    return _table(["method", "transductive", *LABORATORY_SETTINGS.values()], lines)


def _mixed(setting: str) -> pd.DataFrame:
    """Means over the tested laboratories by method and mixture, at the chosen strength, or else at 0.01."""
    table = pd.read_csv(HERE / "laboratories_mixtures.csv", dtype={"C": str}).query("setting == @setting")
    has_choice = table.groupby("method")["C"].transform(lambda strengths: (strengths == "chosen").any())
    table = table[table["C"] == has_choice.map({True: "chosen", False: "0.01"})]
    return table.groupby(["method", "mixture"]).mean(numeric_only=True)


def _mixtures(setting: str, metric: str) -> str:
    found = _mixed(setting)[metric]
    shown = [name for name in MIXTURES if name in found.index.levels[1]]
    lines = [
        [method, *(f"{found[method, name]:.3f}" if (method, name) in found.index else "" for name in shown)]
        for method in METHODS
        if method in found.index.levels[0]
    ]
    return _table([LABORATORY_SETTINGS[setting], *shown], lines)


def _one(rows: pd.DataFrame, method: str) -> str:
    return _spread(rows.loc[rows["method"] == method, "balanced_accuracy"])


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
    leave_one_laboratory_out, published_transfer, transductive, inductive, token_maps, papers_designs, metrics, pairs,
    default_autoencoder, default_autoencoder_nested, readme, backbone, masks, pseudo_masks, novelty, default_classifier,
    laboratories, laboratories_fixed, laboratories_each, laboratories_mixtures, laboratories_calibration,
    laboratories_fine, laboratories_signs, mixture_warning, few_labels, encoders, encoder_speed,
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
