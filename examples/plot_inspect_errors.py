"""
Inspect my errors
=================

A classifier is wrong about some cells of a new laboratory. This example finds out which cell types it confuses, and
shows the cells themselves.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.evaluation import cross_domain_predictions, per_class_recall
from sam_bloodcell.plotting import plot_cells, plot_confusions

cells = make_blood_cells(15, domains=("lab_a", "lab_d"), random_state=0)
labels = np.array(cells.target_names)[cells.target]
embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(cells.images)

# %%
# Predict every cell in the other laboratory
# ------------------------------------------
# Each laboratory trains once. The table has one row for each predicted cell.

pipeline = make_pipeline(CrossDomainAutoencoder(random_state=0), LogisticRegression(max_iter=2000))
predictions = cross_domain_predictions(
    {"aligned": pipeline}, embeddings, labels, domain=cells.domain, mode="transductive", random_state=0
)
across = predictions[predictions["train_domain"] != predictions["test_domain"]]
across[["train_domain", "test_domain", "label", "predicted", "confidence"]].head()

# %%
# Which cell types fail?
# ----------------------
# Recall is the share of the cells of a type that are classified correctly.

recall = per_class_recall(across)
recall.pivot_table("recall", "label", "test_domain", sort=False).round(2)

# %%
# Which types are confused?
# -------------------------
# Each row is a true type and each column an answer.

plot_confusions(across)

# %%
# What do these cells look like?
# ------------------------------
# The most confident mistakes come first. Each title has the label, the answer and its confidence. If you would name the
# cell as the answer does, check its label. :func:`~sam_bloodcell.plotting.plot_mistakes` draws more of them, with their
# files and laboratories.

wrong = across[across["label"] != across["predicted"]].sort_values("confidence", ascending=False).head(6)
titles = [f"{cell.label} called\n{cell.predicted} {cell.confidence:.2f}" for cell in wrong.itertuples()]
plot_cells(cells.images[wrong["row"]], titles=titles)
# sphinx_gallery_thumbnail_number = 2
