"""
Predict tomorrow's folder
=========================

A classifier is trained on two laboratories and saved. Later, a folder of new images arrives from a third laboratory.
This example loads the classifier, classifies the folder, and shows the cells that need a second look.
"""

import tempfile
from pathlib import Path

import pandas as pd

from sam_bloodcell import CellClassifier
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.plotting import plot_cells

# %%
# Today: train and save
# ---------------------
# Here the cells are synthetic. With your own, write ``known = load_cells("cells")``.

folder = Path(tempfile.mkdtemp())
drawn = make_blood_cells(10, domains=("lab_a", "lab_b"), random_state=0)
known = load_cells(save_cells(drawn, folder / "cells"))
classifier = CellClassifier(random_state=0, verbose=0).fit(known.frame, known.labels)
classifier.save_pretrained(folder / "model")

# %%
# Tomorrow: load and predict
# --------------------------
# The new images have no labels. The table needs their paths and the name of their laboratory. Pass all images of the
# laboratory together: the classifier learns the stain from them.

arrived = load_cells(save_cells(make_blood_cells(6, domains=("lab_d",), random_state=0), folder / "arrived"))
new = pd.DataFrame({"path": arrived.paths, "domain": "lyon"})

classifier = CellClassifier.from_pretrained(folder / "model")
answers = classifier.predict_table(new)
answers[["predicted", "confidence", "novelty", "unknown"]].head().round(2)

# %%
# The counts of the predicted cell types are the differential of this folder:

answers["predicted"].value_counts()

# %%
# Look at the least confident answers
# -----------------------------------
# The lowest confidence comes first. `unknown` marks cells that are unlike all training cells.

doubtful = answers.sort_values("confidence").head(6)
titles = [f"{row.predicted}? {row.confidence:.2f}" for row in doubtful.itertuples()]
plot_cells(doubtful["path"].tolist(), titles=titles, title_size=6.5)

# %%
# Keep the table
# --------------
# In the shell, ``sam-bloodcell predict model lyon --domain lyon`` writes the same table.

answers.to_csv(folder / "predictions.csv", index=False)
