"""Signs, computed without any label, that transductive answers may be worse than inductive ones.

Each sign is a number per draw of `laboratories.py`. A rule takes the transductive answers where the sign is on one side
of a limit. The limit and the side are chosen on the draws of three tested laboratories, and the rule is scored on those
of the three others: all 20 ways to choose three of six. Every laboratory and class mixture weighs the same.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

COMPARED = (
    ("pooled", "standardised"),
    ("autoencoder, inductive", "autoencoder, transductive"),
    ("standardised", "standardised, smoothed"),
)
# How a sign is computed from what was kept of the answers: a inductive, b transductive.
SIGNS = {
    "predicted mixtures differ": lambda a, b: np.abs(_shares(a) - _shares(b)).sum(1) / 2,
    "largest predicted class, inductive": lambda a, b: _shares(a).max(1),
    "largest predicted class, transductive": lambda a, b: _shares(b).max(1),
    "clusters moved": lambda a, b: b["clusters_moved"].to_numpy(),
    "little spread of the cells": lambda a, b: -b["spread"].to_numpy(),
    "confidence lost": lambda a, b: (a["confidence"] - b["confidence"]).to_numpy(),
    "number of cells": lambda a, b: a["cells"].to_numpy(float),
}
MIXTURES = {
    "all five mixtures": ("as it is", "balanced", "healthy", "one class missing", "one class only"),
    "without one class only": ("as it is", "balanced", "healthy", "one class missing"),
}
_LIMITS = 49


def _shares(rows):
    return rows[[name for name in rows if name.startswith("share_")]].fillna(0).to_numpy()


def rules(table, strength="0.1"):
    """Return a row for each comparison, setting, set of mixtures and sign."""
    keys = ["setting", "train", "tested", "seed", "mixture", "draw"]
    rows = table[(table["C"] == strength) & table["setting"].isin(("pair", "left out"))].set_index(keys).sort_index()
    found = []
    for inductive, transductive in COMPARED:
        a, b = (rows[rows["method"] == name] for name in (inductive, transductive))
        both = a.index.intersection(b.index)
        a, b = a.loc[both], b.loc[both]
        draws = both.to_frame(index=False).assign(
            a=a["balanced_accuracy"].to_numpy(), b=b["balanced_accuracy"].to_numpy()
        )
        draws = draws.assign(**{name: sign(a, b) for name, sign in SIGNS.items()})
        for mixtures, names in MIXTURES.items():
            for setting, part in draws[draws["mixture"].isin(names)].groupby("setting"):
                part = part.assign(weight=1 / part.groupby(["tested", "mixture"])["a"].transform("size"))
                known = {"inductive": inductive, "transductive": transductive, "setting": setting, "mixtures": mixtures}
                found += [known | _judge(part, name) for name in SIGNS]
    return pd.DataFrame(found)


def _judge(draws, name):
    """Score a sign: how well it ranks the draws, and what its rule gives on laboratories it was not chosen on."""
    laboratories = sorted(draws["tested"].unique())
    scores = []
    for three in combinations(laboratories, len(laboratories) // 2):
        inside = draws["tested"].isin(three)
        chosen, others = draws[inside], draws[~inside]
        side, limit = _choose(chosen, name)
        by_rule = _score(others, side * others[name] <= limit)
        always = _score(chosen, True) >= _score(chosen, False)
        scores.append((by_rule, _score(others, always), side * limit))
    by_rule, fixed, limits = np.array(scores).T
    worse = draws["b"] < draws["a"]
    return {
        "sign": name,
        "auroc": roc_auc_score(worse, draws[name], sample_weight=draws["weight"])
        if 0 < worse.sum() < len(worse)
        else np.nan,
        "always inductive": _score(draws, False),
        "always transductive": _score(draws, True),
        "by rule": by_rule.mean(),
        "by the better of both": fixed.mean(),
        "splits won": (by_rule > fixed).mean(),
        "limit": np.median(limits),
    }


def _choose(draws, name):
    """Return the side and the limit of a sign that give the best mean."""
    best = (-1.0, 1, np.inf)
    for side in (1, -1):
        values = side * draws[name]
        for limit in [-np.inf, *np.quantile(values, np.linspace(0.02, 0.98, _LIMITS)), np.inf]:
            best = max(best, (_score(draws, values <= limit), side, limit))
    return best[1:]


def _score(draws, transductive):
    return np.average(np.where(transductive, draws["b"], draws["a"]), weights=draws["weight"])
