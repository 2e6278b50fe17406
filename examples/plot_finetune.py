"""
Fine-tune LoRA on a few masks
=============================

A laboratory unlike those that the packaged adapter was trained on: pale stain, dim green light, small cells, noise. Its
masks fail; two dozen annotated cells and three epochs help.
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
# With masks, ``fit`` trains the packaged adapter further: LoRA factors on queries and values, and the decoder. With
# more cells, leave `epochs`, `learning_rate` and `validation_fraction` as they are: cells are then set aside to know
# when to stop.

training = LoRATraining(
    epochs=3, warmup_epochs=0, learning_rate=5e-4, batch_size=4, validation_fraction=0, random_state=0
)
tuned = SAMLoRAEmbedder("vit_tiny", training=training)
tuned.fit(cells.images[annotated], masks=cells.masks[annotated])
plot_history(tuned.history_.drop(columns="learning_rate"))

# %%
# Masks after
# -----------
# On cells that the training did not see.

after = tuned.predict_masks(cells.images[tested])
plot_cells(cells.images[tested[:6]], masks=after[:6])

# %%
# Dice, twice the overlap by the sum of both areas:


def dice(found, true):
    """1 where both masks are the same, 0 where they share no pixel."""
    return 2 * (found & true).sum() / (found.sum() + true.sum())


true = cells.masks[tested] > 0
pd.DataFrame(
    {
        "before": [dice(*pair) for pair in zip(before, true, strict=True)],
        "after": [dice(*pair) for pair in zip(after, true, strict=True)],
    }
).describe().loc[["mean", "min", "50%"]].round(3)

# %%
# Keep it
# -------
# A folder in PEFT's layout, with the decoder beside it; ``push_to_hub`` puts the same on the Hub.

with tempfile.TemporaryDirectory() as folder:
    tuned.save_pretrained(folder)
    again = SAMLoRAEmbedder.from_pretrained(folder)
again.transform(cells.images[tested[:2]])
