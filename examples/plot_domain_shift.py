"""
Measure how different laboratories are
======================================

If the features reveal the laboratory of a cell, a classifier that was trained in another laboratory sees unfamiliar
cells. This example measures and draws the difference before and after alignment.
"""

import matplotlib.pyplot as plt
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
# The mean colours of the cells differ between laboratories, because stain, light and camera differ.

plot_stain(embeddings.crops, cells.domain)

# %%
# Before and after
# ----------------
# The autoencoder uses the embeddings and the laboratory of each cell. It does not use the classes.

autoencoder = CrossDomainAutoencoder(random_state=0).fit(embeddings, domain=cells.domain)
features = {
    "embeddings": np.asarray(embeddings),
    "autoencoder": autoencoder.transform(embeddings, domain=cells.domain),
}
plot_embedding_map(features, cells.domain, labels)

# %%
# The table confirms the picture. It shows how well a logistic regression predicts the laboratory, the same score by
# chance, the squared maximum mean discrepancy, which is 0 for equal distributions, and the number of cells.

found = {name: domain_shift(values, cells.domain, random_state=0) for name, values in features.items()}
shifts = pd.concat(found).droplevel(1)
shifts.round(3)

# %%

figure, ax = plt.subplots(figsize=(4.5, 2.4), layout="constrained")
ax.barh(shifts.index, shifts["domain_accuracy"], color="#56B4E9")
ax.axvline(shifts["chance"].mean(), color="black", linestyle="--", label="chance")
ax.set(xlabel="how well the laboratory is predicted", xlim=(0, 1))
ax.legend()
figure
# sphinx_gallery_thumbnail_number = 3

# %%
# By class
# --------
# Laboratories also differ if their mixtures of cell types differ. The difference within a class does not depend on the
# mixture.

domain_shift(features["autoencoder"], cells.domain, y=labels, random_state=0).round(3)

# %%
# The loss in the history shows how much information is lost in the 50 features:

autoencoder.history_[["epoch", "loss"]].iloc[[0, -1]].round(4)
