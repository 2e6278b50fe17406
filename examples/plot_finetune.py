"""
Fine-tune LoRA on a few masks
=============================

The packaged adapter does not find the cells of every laboratory. Here, the stain is pale, the light is dim and green,
the cells are small, and the images are noisy. This example trains the adapter on 24 annotated cells for three epochs.
"""

import tempfile

import numpy as np
import pandas as pd

from sam_bloodcell import LoRATraining, SAMLoRAEmbedder
from sam_bloodcell.datasets import Laboratory, make_blood_cells
from sam_bloodcell.plotting import plot_cells, plot_history

dim = Laboratory(
    name="dim",
    nucleus=(0.50, 0.81, 0.24),
    pink_cytoplasm=(0.10, 0.17, 0.10),
    blue_cytoplasm=(0.24, 0.22, 0.09),
    light=(0.60, 0.75, 0.50),
    blur=0.012,
    noise=0.03,
    cell_diameter=0.25,
    red_cell_coverage=0.7,
)
cells = make_blood_cells(8, domains=[dim], random_state=0)
annotated, tested = np.arange(24), np.arange(24, 40)

# %%
# Masks before
# ------------

packaged = SAMLoRAEmbedder("vit_tiny").fit(cells.images)
before = packaged.predict_masks(cells.images[tested])

plot_cells(cells.images[tested[:6]], masks=before[:6])

# %%
# Train
# -----
# If you pass masks, ``fit`` trains the packaged adapter further: the LoRA factors of queries and values, and the
# decoder. If you have more cells, use the defaults of `epochs`, `learning_rate` and `validation_fraction`. Some cells
# are then held out, and training stops when their masks do not improve any more.

training = LoRATraining(
    epochs=3, warmup_epochs=0, learning_rate=5e-4, batch_size=4, validation_fraction=0, random_state=0
)
tuned = SAMLoRAEmbedder("vit_tiny", training=training)
tuned.fit(cells.images[annotated], masks=cells.masks[annotated])
plot_history(tuned.history_.drop(columns="learning_rate"))

# %%
# Masks after
# -----------
# These cells were not used in training.

after = tuned.predict_masks(cells.images[tested])
plot_cells(cells.images[tested[:6]], masks=after[:6])

# %%
# The Dice coefficient is twice the overlap divided by the sum of both areas:


def dice(found, true):
    """Return 1 if both masks are equal, 0 if they do not overlap."""
    return 2 * (found & true).sum() / (found.sum() + true.sum())


true = cells.masks[tested] > 0
pd.DataFrame(
    {
        "before": [dice(*pair) for pair in zip(before, true, strict=True)],
        "after": [dice(*pair) for pair in zip(after, true, strict=True)],
    }
).describe().loc[["mean", "min", "50%"]].round(3)

# %%
# Save the adapter
# ----------------
# ``save_pretrained`` writes a folder in PEFT's layout, with the decoder. ``push_to_hub`` uploads the same files to the
# Hub.

with tempfile.TemporaryDirectory() as folder:
    tuned.save_pretrained(folder)
    again = SAMLoRAEmbedder.from_pretrained(folder)
again.transform(cells.images[tested[:2]])
