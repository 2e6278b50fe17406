"""
A few labels of the new laboratory
==================================

A classifier can learn from a few labelled cells of a new laboratory. This example asks which cells to label, adapts the
classifier, and measures the gain on the other cells.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from sklearn.metrics import balanced_accuracy_score

from sam_bloodcell import CellClassifier
from sam_bloodcell.datasets import Laboratory, load_cells, make_blood_cells, save_cells

# %%
# A difficult laboratory
# ----------------------
# The new laboratory has pale stain, dim green light and noise.

dim = Laboratory(
    name="dim",
    nucleus=(0.50, 0.81, 0.24),
    pink_cytoplasm=(0.10, 0.17, 0.10),
    blue_cytoplasm=(0.24, 0.22, 0.09),
    light=(0.60, 0.75, 0.50),
    blur=0.012,
    noise=0.03,
)
folder = Path(tempfile.mkdtemp())
known = load_cells(save_cells(make_blood_cells(10, domains=("lab_a", "lab_b"), random_state=0), folder / "known"))
new = load_cells(save_cells(make_blood_cells(16, domains=[dim], random_state=1), folder / "new"))
classifier = CellClassifier(random_state=0, verbose=0).fit(known.frame, known.labels)

# %%
# Which cells to label
# --------------------
# `cells_to_label` returns the rows of the cells whose labels would help most. The most uncertain cells come first.

rows = classifier.cells_to_label(new.frame, 32)
[Path(new.paths[row]).name for row in rows[:3]]

# %%
# Adapt and score
# ---------------
# Cells without a label (``None``) also help: the classifier learns the stain from all cells. Every score is about the
# same cells, none of which gets a label.

scored = [row for row in range(len(new.labels)) if row not in set(rows)]
numbers, scores = [0, 8, 16, 32], []
for number in numbers:
    chosen = set(rows[:number])
    labels = [label if row in chosen else None for row, label in enumerate(new.labels)]
    adapted = CellClassifier(random_state=0, verbose=0).fit(known.frame, known.labels)
    adapted.adapt(new.frame, "dim", labels if number else None)
    predicted = adapted.predict(new.frame)
    scores.append(balanced_accuracy_score(new.labels[scored], predicted[scored]))

figure, ax = plt.subplots(figsize=(4.5, 3.1), layout="constrained")
ax.plot(numbers, scores, "o-", markersize=9, linewidth=2)
ax.set(xlabel="labelled cells of the new laboratory", ylabel="balanced accuracy", xticks=numbers)
figure

# %%
# These cells are synthetic. :doc:`The results </results/classifier>` report the gain on real laboratories. To measure
# it on your own laboratories before you label anything, use `sam_bloodcell.evaluation.label_curve`.
