"""The answer that a report begins with, and the terms that it explains."""

import re
from typing import Any

# The limits that choose the answer. The page states them.
GOOD, POOR, WEAK = 0.9, 0.7, 0.8

# Term, what a page that uses it contains, and what it means.
_GLOSSARY: dict[str, tuple[str, str]] = {
    "accuracy": (r"\baccuracy\b", "The share of cells whose answer is the given class."),
    "across laboratories": (
        r"\bacross\b",
        "Trained in one laboratory and tested in another. A pair of laboratories counts once in each direction.",
    ),
    "autoencoder": (
        r"\bautoencoder",
        "A network that turns the embeddings into features in which the laboratories differ less. It is fitted on the "
        "images of all laboratories, without their classes.",
    ),
    "balanced accuracy": (
        r"\bbalanced accuracy\b",
        "The mean recall over the classes. A rare class counts as much as a common one.",
    ),
    "bootstrap": (
        r"\bbootstrap\b",
        "Cells (or patients, where they are known) are drawn again and again with replacement, and each draw is "
        "scored. The spread of these scores gives the interval.",
    ),
    "chance": (
        r"\bchance\b",
        "The score of a classifier that ignores the images. For balanced accuracy, it is one divided by the number of "
        "classes.",
    ),
    "confidence": (r"\bconfiden(?:t|ce)", "The highest of the probabilities that the classifier gives the classes."),
    "confusion": (r"\bconfusions?\b", "How often the cells of one class are answered as another class."),
    "crop": (r"\bcrops?\b", "The part of the image with the cell. Everything outside the cell's mask is grey."),
    "CSV": (r"\bCSV\b", "Comma-separated values: a table as a text file, which spreadsheets open."),
    "ECE": (
        r"\bECE\b|\bcalibration error\b",
        "Expected calibration error: the mean difference between the stated confidence and the share of right answers. "
        "0 is best. At 0.10, a stated confidence is off by 10 percentage points on average.",
    ),
    "embeddings": (r"\bembeddings?\b", "The numbers that the image network computes from the picture of a cell."),
    "F1": (
        r"\bF1\b",
        "The harmonic mean of a class's recall and its precision. Macro-F1 is the mean over the classes.",
    ),
    "fold": (
        r"\bfolds?\b",
        "One of the parts into which the cells of the training laboratory are cut. Each fit leaves one part out and "
        "is tested on it.",
    ),
    "interval": (
        r"\binterval",
        "The 95% interval of a score. It shows how much the score depends on the choice of the tested cells. It does "
        "not cover the choice of laboratories.",
    ),
    "laboratory": (
        r"\blaborator",
        "The place where a cell was stained and photographed. In tables and code it is called domain.",
    ),
    "LR": (r"\bLR\b", "Logistic regression, a linear classifier."),
    "mask": (r"\bmasks?\b", "The part of the picture that belongs to the cell."),
    "MLP": (r"\bMLP\b", "Multilayer perceptron, a small neural network as classifier."),
    "MMD": (
        r"\bMMD\b",
        "Maximum mean discrepancy: a distance between the features of two laboratories. 0 means that they do not "
        "differ.",
    ),
    "n": (r"\bn\b", "Number of cells."),
    "p": (
        r"\bp [=&<]",
        "The probability of a difference at least this large if there were no true difference. Small values are "
        "evidence of a difference.",
    ),
    "principal components": (
        r"\bprincipal components?\b",
        "The directions in which the features vary most. Two of them show many numbers as a map.",
    ),
    "recall": (r"\brecall\b", "The share of a class's cells that the classifier finds. Also called sensitivity."),
    "RF": (r"\bRF\b", "Random forest, a classifier of many decision trees."),
    "SHA-256": (r"\bSHA-256\b", "A checksum. Two data sets with the same checksum contain the same cells and labels."),
    "standard deviation (±)": (
        r"±|&plusmn;",
        "The spread of a score over the folds or, in the table of a few labels, over the draws.",
    ),
    "SVM": (
        r"\bSVM\b",
        "Support vector machine, a classifier. Linear, poly (polynomial) and rbf (radial basis function) name its "
        "kernel, the shape of its class borders.",
    ),
    "transductive": (
        r"\btransductive\b",
        "The images of the tested laboratory, but not their classes, were used before the test.",
    ),
    "within laboratories": (r"\bwithin\b", "Trained and tested in one laboratory, on different cells."),
    "XGBoost": (r"\bXGBoost\b", "A classifier of decision trees, each of which corrects the ones before it."),
}  # fmt: skip


def judge(verdict: Any) -> tuple[str, str]:
    """Answer whether the classifier can be trusted in another laboratory, with a level and a sentence.

    The level is "yes", "care", "no" or "unknown".
    """
    within, across = (None, None) if verdict is None else (verdict.within, verdict.across)
    if across is None:
        if within is None:
            return "unknown", "Not known: nothing could be scored. The laboratories share no class with enough cells."
        found = f"finds on average {within.value:.0%} of a class's cells"
        if within.n == 1:
            add = "Add a second laboratory to learn how well it does elsewhere."
            return "unknown", f"Not known yet: in the one laboratory, the classifier {found}. {add}"
        reason = "No two laboratories share a class, so it could not be tested in another one."
        return "unknown", f"Not known: in its own laboratory, the classifier {found}. {reason}"
    found = f"on average, the classifier finds {across.value:.0%} of a class's cells in another laboratory"
    if within is not None:
        found += f", and {within.value:.0%} in its own"
    if _low(across) <= across.chance:
        return "no", f"No: {found}. This is not clearly better than chance ({across.chance:.0%})."
    if across.value < POOR:
        return "no", f"No: {found}."
    weakest = [part[at] for part, at in ((verdict.weakest_pair, 2), (verdict.weakest_class, 1)) if part is not None]
    if _low(across) >= GOOD and all(score >= WEAK for score in weakest):
        return "yes", f"Yes, between these laboratories: {found}."
    return "care", f"Only with checks: {found}."


def used_terms(page: str) -> list[tuple[str, str]]:
    """Return the terms of the glossary that a page uses, with what they mean."""
    text = re.sub(r"<(style|svg)\b.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    return [
        (term, meaning) for term, (pattern, meaning) in _GLOSSARY.items() if re.search(pattern, text, re.IGNORECASE)
    ]


def _low(interval: Any) -> float:
    """Return the lower limit of a score, or the score itself if it has no interval."""
    return interval.value if interval.low != interval.low else interval.low
