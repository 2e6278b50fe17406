"""
Compare features: colours, embeddings, autoencoder
==================================================

Do you need a foundation model, and what does the autoencoder add? This example trains the same classifier on three
kinds of features of the same cells: a histogram of the colours, the pooled embeddings, and 50 features of the
autoencoder. All pipelines use the same folds, so the differences can be compared cell by cell.
"""

import matplotlib.pyplot as plt
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
# The colour histogram has 16 bins for each colour channel of the crop.


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
# Each pipeline reads `CellEmbeddings`. The first pipeline uses the crops, the other two use the pooled embeddings.

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
# The table shows the mean over the pairs of different laboratories, with 95% bootstrap intervals over the tested cells:

intervals = confidence_intervals(predictions, random_state=0)
intervals.round(3)

# %%

figure, ax = plt.subplots(figsize=(4.5, 2.6), layout="constrained")
distances = [intervals["score"] - intervals["low"], intervals["high"] - intervals["score"]]
ax.barh(intervals["classifier"], intervals["score"], xerr=distances, color="#56B4E9", capsize=5)
ax.axvline(intervals["chance"].mean(), color="black", linestyle="--", label="chance")
ax.set(xlabel="balanced accuracy across laboratories", xlim=(0, 1))
ax.legend()
figure
# sphinx_gallery_thumbnail_number = 2

# %%
# A paired comparison is more sensitive than a comparison of intervals, because it estimates the difference directly:

compare_pipelines(predictions, "pooled", random_state=0).round(3)

# %%
# Which classes improve
# ---------------------
# The table shows the recall of each class across laboratories.

recall = per_class_recall(predictions)
across = recall[recall["train_domain"] != recall["test_domain"]]
across.pivot_table("recall", "label", "classifier", sort=False).round(2)

# %%
# The confusion matrices show the remaining mistakes:

plot_confusions(predictions[predictions["classifier"] == "autoencoder"])
