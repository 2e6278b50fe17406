"""
The paper's experiment in miniature
===================================

BC-SAM's third stage on two synthetic laboratories: its own autoencoder, its classifiers, its table. **The numbers mean
nothing**: three epochs in the place of ten, crops of 32 px in the place of 128, a hundred synthetic cells, and
`vit_tiny` in the place of ViT-B with an adapter trained for 150 epochs. It shows the steps; on the papers' data they
are one command,
``sam-bloodcell reproduce bc-sam --matek FOLDER --acevedo FOLDER``.
"""

import numpy as np
from sklearn.pipeline import make_pipeline

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.evaluation import cross_domain_predictions, default_classifiers, score_predictions
from sam_bloodcell.plotting import plot_cells, plot_history, plot_transfer_matrix
from sam_bloodcell.reproduce import published_results

cells = make_blood_cells(10, domains=("lab_a", "lab_b"), random_state=0)
labels = np.array(cells.target_names)[cells.target]

# %%
# Stage 1: tokens, masks and crops
# --------------------------------

embeddings = SAMLoRAEmbedder("vit_tiny", keep=("tokens", "crops")).fit_transform(cells.images)
embeddings.tokens.shape, embeddings.crops.shape

# %%
# Stage 2: the autoencoder, on both laboratories, without labels
# --------------------------------------------------------------
# ``preset="bc-sam"`` sets everything as in the paper; what is given besides wins. Its loss is 1 - SSIM of the
# crop plus five times the discrepancy between the laboratories' mean features.

autoencoder = CrossDomainAutoencoder(preset="bc-sam", epochs=3, crop_size=32, batch_size=20, random_state=0)
features = autoencoder.fit_transform(embeddings, domain=cells.domain)
autoencoder.settings_

# %%

plot_history(autoencoder.history_)

# %%
# Crops beside what the decoder paints of them from 50 numbers. After 15 steps that is next to nothing yet:

rows = np.r_[0:3, 50:53]
plot_cells(cells.images[rows], crops=embeddings.crops[rows], reconstructions=autoencoder.reconstruct(embeddings[rows]))
# sphinx_gallery_thumbnail_number = 3

# %%
# Stage 3: the classifiers
# ------------------------
# Trained in one laboratory in five folds, tested at home on the fold and abroad on everything.

classifiers = {name: make_pipeline(default_classifiers(random_state=0)[name]) for name in ("RF", "SVM rbf", "LR")}
predictions = cross_domain_predictions(classifiers, features, labels, domain=cells.domain, random_state=0)
plot_transfer_matrix(score_predictions(predictions), metric="accuracy")

# %%
# What the paper published (accuracy in percent):

published_results("bc-sam")
