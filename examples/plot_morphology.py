"""
Features that a haematologist can read
======================================

Beside an embedding, `CellMorphology` measures 16 numbers with names from each cell's mask and crop: size, shape,
nucleus, stain. They say what sets classes, and laboratories, apart.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.morphology import CellMorphology

cells = make_blood_cells(15, domains=("lab_a", "lab_b", "lab_d"), random_state=0)
labels = np.array(cells.target_names)[cells.target]
embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(cells.images)
morphology = CellMorphology().set_output(transform="pandas").fit_transform(embeddings)

# %%
# By class and laboratory
# -----------------------
# Medians. The nucleus's share of the cell is a matter of class, the densities of stain are one of laboratory too.

shown = ["area", "nucleus_to_cell", "nucleus_lobes", "nucleus_red", "cytoplasm_green"]
morphology[shown].groupby([labels, cells.domain]).median().round(2)

# %%

figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
classes = sorted(set(labels))
for ax, name in zip(axes, ["nucleus_to_cell", "nucleus_red"], strict=True):
    for lab in np.unique(cells.domain):
        here = cells.domain == lab
        medians = [morphology.loc[here & (labels == label), name].median() for label in classes]
        ax.plot(classes, medians, marker="o", linestyle="none", label=lab)
    ax.set_title(name)
    ax.tick_params("x", rotation=30)
axes[1].legend()
figure

# %%
# Which of them tell the classes apart
# ------------------------------------
# A forest is trained in one laboratory; permuting a feature in another shows how much the answer there rests on it.

home, away = cells.domain == "lab_a", cells.domain == "lab_d"
forest = RandomForestClassifier(random_state=0).fit(morphology[home], labels[home])
importance = permutation_importance(forest, morphology[away], labels[away], n_repeats=10, random_state=0)
pd.Series(importance.importances_mean, morphology.columns).sort_values(ascending=False).head(6).round(3)

# %%
# Beside the embedding
# --------------------
# Both in one step: a ``FeatureUnion`` of the embedding as it is and the named features. Neither part learns anything,
# so it may be computed once, before the folds are drawn.

both = FeatureUnion([("embedding", FunctionTransformer(np.asarray)), ("morphology", CellMorphology())])
features = {"morphology": morphology, "embedding": np.asarray(embeddings), "both": both.fit_transform(embeddings)}
classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
pd.Series(
    {name: cross_val_score(classifier, found, labels).mean() for name, found in features.items()},
    name="accuracy, folds over all laboratories",
).round(3)
