"""
Run a grid search that embeds every image once
==============================================

A search of 6 candidates with 3 folds fits and predicts the pipeline many times. With ``cache_dir``, each image is
embedded only once. Folds, candidates, processes and later sessions share the embeddings.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.embedding.store import EmbeddingStore

folder = Path(tempfile.mkdtemp())
drawn = make_blood_cells(10, classes=("lymphocyte", "monocyte", "neutrophil"), random_state=0)
cells = load_cells(save_cells(drawn, folder / "cells"))
cache = folder / "cache"

# %%
# The search covers the whole pipeline, from image to class. ``cells.frame`` has the columns path and domain, so the
# autoencoder knows the laboratory of each cell in every fold and in every score.

pipe = Pipeline(
    [
        ("embed", SAMLoRAEmbedder("vit_tiny", cache_dir=cache)),
        ("align", CrossDomainAutoencoder(random_state=0)),
        ("classify", SVC()),
    ]
)
grid = {"align__n_components": [10, 50], "classify__C": [0.1, 1, 10]}
folds = StratifiedKFold(3, shuffle=True, random_state=0)
search = GridSearchCV(pipe, grid, cv=folds, scoring="balanced_accuracy").fit(cells.frame, cells.labels)

# %%
# The search makes 18 fits and one refit. The store has 60 embeddings, one for each image:

EmbeddingStore(cache).info()[["cells", "bytes"]]

# %%
# The fit time is the time of the autoencoder and the classifier. Only the first fit also embeds the images.

table = pd.DataFrame(search.cv_results_)
table[["param_align__n_components", "param_classify__C", "mean_test_score", "mean_fit_time"]].round(3)

# %%

scores = table.pivot_table("mean_test_score", "param_align__n_components", "param_classify__C")
figure, ax = plt.subplots(figsize=(4.5, 2.5), layout="constrained")
ax.imshow(scores, cmap="cividis", vmin=0, vmax=1)
for (i, j), score in np.ndenumerate(scores.to_numpy()):
    ax.text(j, i, f"{score:.2f}", ha="center", va="center", color="white" if score < 0.55 else "black")
ax.set_xticks(range(scores.shape[1]), scores.columns)
ax.set_yticks(range(scores.shape[0]), scores.index)
ax.set(xlabel="C of the SVM", ylabel="features", title="balanced accuracy, mean over folds")
figure

# %%
# Each of these folds contains cells of all laboratories. They are suitable for choosing a setting, but they do not
# measure the score in an unseen laboratory. For this purpose, use `cross_domain_predictions`, or a splitter that leaves
# laboratories out, such as `sklearn.model_selection.LeaveOneGroupOut` with ``groups=cells.domain``.
#
# The search refits the best pipeline on all cells. It can predict at once:

search.predict(cells.frame[:3])
