"""
My own encoder
==============

Any function from images to vectors can be the encoder: a pathology model, an ONNX file or a CNN. Masks, cache,
alignment and benchmark work in the same way. This example compares such a function with the packaged encoder.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline

from sam_bloodcell import CrossDomainAutoencoder, FunctionEmbedder, SAMLoRAEmbedder
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells

folder = Path(tempfile.mkdtemp())
drawn = make_blood_cells(6, domains=("lab_a", "lab_b", "lab_c"), random_state=0)
cells = load_cells(save_cells(drawn, folder / "cells"))

# %%
# The function
# ------------
# It receives uint8 images of shape (n, 224, 224, 3), in which everything outside the cell is grey, and returns one
# vector for each image. Here, the vector has the mean and the standard deviation of the colours in each of 16 squares.


def colours(crops):
    squares = crops.reshape(len(crops), 4, 56, 4, 56, 3)
    both = np.stack([squares.mean(axis=(2, 4)), squares.std(axis=(2, 4))], axis=-1)
    return both.reshape(len(crops), -1)


# %%
# The cache identifies the function by its name. Choose another name whenever the function changes.

own = FunctionEmbedder(colours, name="colours-1")
embeddings = own.fit_transform(cells.frame)
embeddings

# %%
# Compare encoders
# ----------------
# Each laboratory in turn is left out of the training.

scores = {}
for name, embedder in {"colours": own, "vit_tiny": SAMLoRAEmbedder("vit_tiny")}.items():
    pipe = make_pipeline(embedder, CrossDomainAutoencoder(16, random_state=0), LogisticRegression(max_iter=2000))
    scores[name] = cross_val_score(
        pipe, cells.frame, cells.labels, groups=cells.domain, cv=LeaveOneGroupOut(), scoring="balanced_accuracy"
    )

figure, ax = plt.subplots(figsize=(5.4, 2.6), layout="constrained")
table = pd.DataFrame(scores, index=sorted(set(cells.domain)))
table.T.plot.barh(ax=ax, legend=False)
ax.set(xlabel="balanced accuracy in the laboratory that was left out", xlim=(0, 1))
figure.legend(title="left out", frameon=False, loc="outside right upper")
figure

# %%
# These cells are synthetic. `sam-bloodcell benchmark` measures an encoder on your own laboratories. Plain Vision
# Transformers, such as DinoBloom, need no function: pass their name to `ViTEmbedder` (:doc:`/encoders`).
