"""What a user's type checker must see; without py.typed every `assert_type` below fails, for all would be Any."""

from pathlib import Path
from typing import assert_type

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sam_bloodcell import CellClassifier, CellEmbeddings, CrossDomainAutoencoder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.evaluation import BenchmarkResult, cross_domain_scores, run_benchmark
from sam_bloodcell.report import write_report

cells = make_blood_cells(5)
embedder = assert_type(SAMLoRAEmbedder("vit_tiny").fit(cells.images), SAMLoRAEmbedder)
embeddings = assert_type(embedder.transform(cells.images), CellEmbeddings)
assert_type(embedder.predict_masks(cells.images), list[NDArray[np.bool_] | None])
assert_type(embedder.save_pretrained("adapter"), Path)
assert_type(cross_domain_scores({}, embeddings, cells.target, domain=cells.domain), pd.DataFrame)
result = assert_type(run_benchmark(cells, embedder, CrossDomainAutoencoder()), BenchmarkResult)
assert_type(write_report(result, "report.html"), Path)
classifier = assert_type(CellClassifier().fit(cells.images, cells.labels), CellClassifier)
assert_type(classifier.predict_table(cells.images), pd.DataFrame)
assert_type(CellClassifier.from_pretrained("model"), CellClassifier)
