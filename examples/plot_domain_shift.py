"""
How far laboratories lie apart
==============================

Before asking how well a classifier transfers, look at the features: if a laboratory can be told from them, a classifier
trained in another one meets cells unlike its own.
"""

import numpy as np
import pandas as pd

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.evaluation import domain_shift
from sam_bloodcell.plotting import plot_embedding_map, plot_stain

cells = make_blood_cells(15, domains=("lab_a", "lab_b", "lab_d"), random_state=0)
labels = np.array(cells.target_names)[cells.target]
embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(cells.images)

# %%
# The cause
# ---------
# Mean colours of the cells, laboratory by laboratory: stain, light and camera differ.

plot_stain(embeddings.crops, cells.domain)

# %%
# Before and after
# ----------------
# The autoencoder reads the embeddings and each cell's laboratory, no class.

autoencoder = CrossDomainAutoencoder(random_state=0).fit(embeddings, domain=cells.domain)
features = {
    "embeddings": np.asarray(embeddings),
    "autoencoder": autoencoder.transform(embeddings, domain=cells.domain),
}
plot_embedding_map(features, cells.domain, labels)
# sphinx_gallery_thumbnail_number = 2

# %%
# Three numbers say the same: how well a logistic regression guesses the laboratory, what guessing gives (chance), and
# the squared maximum mean discrepancy, which is 0 for equal distributions.

pd.DataFrame({name: domain_shift(found, cells.domain, random_state=0) for name, found in features.items()}).T.round(3)

# %%
# By class
# --------
# Laboratories that hold other mixtures of cell types lie apart for that reason too. Within a class this does not count.

domain_shift(features["autoencoder"], cells.domain, y=labels, random_state=0).round(3)

# %%
# What the autoencoder lost on the way to its 50 features shows in its history:

autoencoder.history_[["epoch", "loss"]].iloc[[0, -1]].round(4)
