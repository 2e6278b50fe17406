"""
Measure size, shape, nucleus and stain
======================================

`CellMorphology` measures 16 named features of each cell from its mask and crop: size, shape, nucleus and stain. They
show how cell types and laboratories differ, in terms that a haematologist knows.
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
# The table shows medians. The nucleus's share of the cell depends on the class. The densities of stain also depend on
# the laboratory.

shown = ["area", "nucleus_to_cell", "nucleus_lobes", "nucleus_red", "cytoplasm_green"]
morphology[shown].groupby([labels, cells.domain]).median().round(2)

# %%

figure, axes = plt.subplots(1, 2, figsize=(6.6, 3), layout="constrained")
classes = sorted(set(labels))
for ax, name in zip(axes, ["nucleus_to_cell", "nucleus_red"], strict=True):
    for lab in np.unique(cells.domain):
        here = cells.domain == lab
        medians = [morphology.loc[here & (labels == label), name].median() for label in classes]
        ax.plot(classes, medians, marker="o", linestyle="none", label=lab)
    ax.set_title(name)
    ax.tick_params("x", rotation=30)
figure.legend(*axes[1].get_legend_handles_labels(), frameon=False, loc="outside right upper")
figure

# %%
# Which features separate the classes
# -----------------------------------
# A random forest is trained in one laboratory. Permuting a feature in another laboratory shows how much the predictions
# depend on this feature.

home, away = cells.domain == "lab_a", cells.domain == "lab_d"
forest = RandomForestClassifier(random_state=0).fit(morphology[home], labels[home])
importance = permutation_importance(forest, morphology[away], labels[away], n_repeats=10, random_state=0)
pd.Series(importance.importances_mean, morphology.columns).sort_values(ascending=False).head(6).round(3)

# %%
# Combine them with the embedding
# -------------------------------
# A ``FeatureUnion`` concatenates the embedding and the named features. Neither part is trained, so the features can be
# computed once before cross-validation.

both = FeatureUnion([("embedding", FunctionTransformer(np.asarray)), ("morphology", CellMorphology())])
features = {"morphology": morphology, "embedding": np.asarray(embeddings), "both": both.fit_transform(embeddings)}
classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
pd.Series(
    {name: cross_val_score(classifier, found, labels).mean() for name, found in features.items()},
    name="accuracy, folds over all laboratories",
).round(3)
