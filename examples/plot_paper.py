"""
The paper's experiment in miniature
===================================

This example shows the steps of the BC-SAM paper on two synthetic laboratories, with the paper's autoencoder,
classifiers and table. **The scores are not meaningful**: the training has three epochs instead of ten, the crops have
32 px instead of 128, there are only a hundred synthetic cells, and `vit_tiny` replaces ViT-B. On the papers' data, run
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
# Segmentation and embedding: tokens, masks and crops
# ---------------------------------------------------

embeddings = SAMLoRAEmbedder("vit_tiny", keep=("tokens", "crops")).fit_transform(cells.images)
embeddings.tokens.shape, embeddings.crops.shape

# %%
# Alignment: the autoencoder, on both laboratories, without labels
# ----------------------------------------------------------------
# ``preset="bc-sam"`` uses the settings of the paper; other arguments override them. The loss is 1 - SSIM of the crop
# plus five times the discrepancy between the laboratories' mean features.

autoencoder = CrossDomainAutoencoder(preset="bc-sam", epochs=3, crop_size=32, batch_size=20, random_state=0)
features = autoencoder.fit_transform(embeddings, domain=cells.domain)
autoencoder.settings_

# %%

plot_history(autoencoder.history_)

# %%
# The decoder reconstructs each crop from 50 features. After 15 training steps, the reconstructions are still poor:

rows = [0, 50]
plot_cells(
    cells.images[rows],
    crops=embeddings.crops[rows],
    reconstructions=autoencoder.reconstruct(embeddings[rows]),
    columns=1,
)
# sphinx_gallery_thumbnail_number = 2

# %%
# Classification
# --------------
# Each classifier is trained in one laboratory with five folds. It is tested on the held-out fold and on all cells of
# the other laboratory.

classifiers = {name: make_pipeline(default_classifiers(random_state=0)[name]) for name in ("RF", "SVM rbf", "LR")}
predictions = cross_domain_predictions(classifiers, features, labels, domain=cells.domain, random_state=0)
plot_transfer_matrix(score_predictions(predictions), metric="accuracy")

# %%
# The paper published these accuracies, in percent:

published_results("bc-sam")
