"""
Baseline, pooled embeddings, autoencoder
========================================

Is a foundation model needed at all, and what does the autoencoder add? The same classifier is given three kinds of
features of the same cells: a histogram of the image's colours, the pooled embeddings, and 50 features of the
autoencoder. Every pipeline gets the same folds, so their differences can be compared cell by cell.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.evaluation import (
    compare_pipelines,
    confidence_intervals,
    cross_domain_predictions,
    per_class_recall,
    score_predictions,
)
from sam_bloodcell.plotting import plot_confusions, plot_transfer_matrix

cells = make_blood_cells(15, domains=("lab_a", "lab_b", "lab_d"), random_state=0)
labels = np.array(cells.target_names)[cells.target]
embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(cells.images)

# %%
# The baseline
# ------------
# 16 bins of each colour channel, over the crop of the cell.


def colour_histograms(found):
    """(n, 48) shares of 16 bins of red, green and blue, from the crops of n cells."""
    crops = np.asarray(found.crops)
    return np.array(
        [
            np.concatenate([np.histogram(crop[..., c], 16, (0, 256), density=True)[0] for c in range(3)])
            for crop in crops
        ]
    )


# %%
# Three pipelines
# ---------------
# `CellEmbeddings` is what flows into each of them: the first reads its crops, the others its pooled embeddings.

classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
pipelines = {
    "colours": make_pipeline(FunctionTransformer(colour_histograms), classifier),
    "pooled": classifier,
    "autoencoder": make_pipeline(CrossDomainAutoencoder(random_state=0), classifier),
}
predictions = cross_domain_predictions(
    pipelines, embeddings, labels, domain=cells.domain, mode="transductive", random_state=0
)
plot_transfer_matrix(score_predictions(predictions))

# %%
# Mean over the pairs of different laboratories, with 95% bootstrap intervals over the tested cells:

confidence_intervals(predictions, random_state=0).round(3)

# %%
# The paired comparison is sharper than intervals that overlap: it asks how the difference varies.

compare_pipelines(predictions, "pooled", random_state=0).round(3)

# %%
# Which classes gain
# ------------------
# Recall of each class across laboratories.

recall = per_class_recall(predictions)
across = recall[recall["train_domain"] != recall["test_domain"]]
across.pivot_table("recall", "label", "classifier", sort=False).round(2)

# %%
# And what the remaining mistakes are:

plot_confusions(predictions[predictions["classifier"] == "autoencoder"])
