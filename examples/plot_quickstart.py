"""
Quickstart: trained here, tested there
======================================

Two laboratories photograph the same five types of cells. A classifier is trained on the cells of one and asked about
those of the other.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.evaluation import cross_domain_predictions, score_predictions
from sam_bloodcell.plotting import plot_cells, plot_transfer_matrix

# %%
# Cells
# -----
# ``cells`` holds images, classes and laboratories. With your own, it comes from
# :func:`~sam_bloodcell.datasets.load_cells`.

cells = make_blood_cells(15, domains=("lab_a", "lab_b"), random_state=0)
labels = np.array(cells.target_names)[cells.target]

# %%
# Embeddings
# ----------
# The encoder finds the cell in each image and averages its tokens over it. What comes out is an (n, 192) array to numpy
# and scikit-learn, and carries masks and crops besides.

embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(cells.images)
embeddings

# %%

shown = [row for lab in ("lab_a", "lab_b") for row in np.flatnonzero(cells.domain == lab)[:3]]
titles = [f"{cells.domain[row]}: {labels[row]}" for row in shown]
plot_cells(cells.images[shown], masks=embeddings.masks[shown], crops=embeddings.crops[shown], titles=titles)

# %%
# Trained here, tested there
# --------------------------
# Each laboratory in turn trains; its own folds and all cells of the other are predicted. "transductive" says that
# the autoencoder has seen the images of both laboratories, never their classes.

classifier = LogisticRegression(max_iter=2000)
predictions = cross_domain_predictions(
    {"embeddings": classifier, "autoencoder": make_pipeline(CrossDomainAutoencoder(random_state=0), classifier)},
    embeddings,
    labels,
    domain=cells.domain,
    mode="transductive",
    random_state=0,
)
plot_transfer_matrix(score_predictions(predictions))

# %%
# The diagonal is within a laboratory, the rest across. The gap between them is what this package is about.
