"""A search over a classifier against one embedding pass and the classifiers alone. Run alone.

python benchmarks/grid_search.py [--cells 300]
"""

import argparse
import tempfile
import time
from functools import partial

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sam_bloodcell import SAMLoRAEmbedder
from sam_bloodcell.bulk import find_images
from sam_bloodcell.datasets import make_blood_cells, save_cells
from sam_bloodcell.embedding import encoder
from sam_bloodcell.embedding.store import MEMORY

GRID = [0.001, 0.01, 0.1, 1, 10, 100, 1000, 10000]


def timed(run):
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=300)
    args = parser.parse_args()
    cells = make_blood_cells(args.cells // 10, random_state=0)
    drawn = tempfile.TemporaryDirectory()
    save_cells(cells, drawn.name)
    paths, labels = (find_images([f"{drawn.name}/cells.csv"])[name] for name in ("path", "label"))
    n = len(paths)
    seen, run = [], encoder.run_network
    encoder.run_network = lambda *parts: seen.append(len(parts[-1])) or run(*parts)
    embedder = SAMLoRAEmbedder("vit_tiny").fit(paths)
    embedder.transform(paths[:8])  # warm

    classifier = LogisticRegression(max_iter=500)
    for place in ("memory", "disk"):
        MEMORY.clear()
        alone, embeddings = timed(partial(embedder.transform, paths))
        grid = GridSearchCV(classifier, {"C": GRID}, cv=5)
        classifiers, _ = timed(partial(grid.fit, embeddings.pooled, labels))
        MEMORY.clear()
        seen.clear()
        with tempfile.TemporaryDirectory() as folder:
            first = SAMLoRAEmbedder("vit_tiny", cache_dir=folder if place == "disk" else None)
            pipeline = make_pipeline(first, classifier)
            search = GridSearchCV(pipeline, {"logisticregression__C": GRID}, cv=5)
            whole, _ = timed(partial(search.fit, paths, labels))
        print(
            f"{place}: one pass {alone:.1f} s + classifiers {classifiers:.1f} s; search of 5 folds x 8 candidates "
            f"{whole:.1f} s: {whole / (alone + classifiers):.2f}x (target 1.15x); forward passes an image: "
            f"{sum(seen) / n:.2f} (target 1)",
            flush=True,
        )


if __name__ == "__main__":
    main()
