"""Every public function and estimator under bad arguments: an error that says which, never one from deep inside.

The table names each function with arguments that work, and for each argument values that must not. An error is clear
when it is a TypeError, ValueError or OSError, and matches the pattern beside the value (default: the argument's name).
"""

import inspect
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import Bunch

from sam_bloodcell import (
    CellClassifier,
    CellEmbeddings,
    CrossDomainAutoencoder,
    SAMLoRAEmbedder,
    bulk,
    datasets,
    evaluation,
    from_pretrained,
    plotting,
    save_pretrained,
    segmentation,
)
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.models import alignment
from sam_bloodcell.morphology import CellMorphology, measure_cell
from sam_bloodcell.published import read_published_adapter, read_published_autoencoder
from sam_bloodcell.report import write_report
from sam_bloodcell.reproduce import limit_cells, published_results, reproduce
from sam_bloodcell.segmentation import LoRATraining

API = Path(__file__).parents[1] / "docs" / "api.rst"
NO_PATH = "path|PathLike"
NO_SEED = "seed|random_state"


class NotCalled(dict):
    """Arguments that are right, for a function that is not called with them here: its own tests do."""


class Bad(NamedTuple):
    """Values of an argument that must not pass, and what the error has to say."""

    argument: str
    values: list[Any]
    says: str = ""


X = np.random.default_rng(0).normal(size=(40, 6))
Y, DOMAIN = np.tile(["x", "y"], 20), np.repeat(["a", "b"], 20)
HOLE = X.copy()
HOLE[2, 1] = np.nan
NO_LABEL = np.array([None, *Y[1:]], dtype=object)
PREDICTIONS = evaluation.cross_domain_predictions(LogisticRegression(), X, Y, domain=DOMAIN, random_state=0)
SCORES = evaluation.score_predictions(PREDICTIONS)
TWO = pd.concat([PREDICTIONS, PREDICTIONS.assign(classifier="other")])
NO_TABLE = [None, 3, {}, pd.DataFrame(), PREDICTIONS[:0], PREDICTIONS[["label"]]]
DRAWN = make_blood_cells(1, image_size=32, random_state=0)
TABLE = Bunch(images=X, target=np.tile([0, 1], 20), target_names=["x", "y"], domain=DOMAIN)
BENCHMARK = evaluation.run_benchmark(TABLE, FunctionTransformer(), None, LogisticRegression(), cv=2, random_state=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return what calls need on disk: a folder, cells in it, their embeddings, a fitted embedder."""
    folder = tmp_path_factory.mktemp("made")
    csv = save_cells(DRAWN, folder / "cells")
    cells = load_cells(csv)
    embedder = SAMLoRAEmbedder("vit_tiny").fit(cells.paths)
    return Bunch(folder=folder, csv=csv, cells=cells, embedder=embedder, embeddings=embedder.transform(cells.paths))


def fit_embedder(X, masks=None):
    return SAMLoRAEmbedder("vit_tiny", image_size=64, training=LoRATraining(epochs=1, random_state=0)).fit(
        X, masks=masks
    )


def fit_autoencoder(X, domain=None):
    return CrossDomainAutoencoder(2, epochs=1, random_state=0).fit(X, domain=domain)


def fit_abstaining(**params):
    return evaluation.AbstainingClassifier(**params).fit(X, Y)


# What `cross_domain_predictions` refuses of labels, and others with it.
LABELS = [
    Bad("X", [X[:5], X[:0]], "samples|X"),
    Bad("X", [HOLE], "NaN"),
    Bad("X", [None], "array-like"),
    Bad("y", [Y[:5], NO_LABEL, Y.reshape(-1, 2), None, 3, "xy"]),
    Bad("y", [["x"] * 40], r"class\(es\)"),
    Bad("domain", [DOMAIN[:5], np.where(DOMAIN == "a", None, DOMAIN), None]),
    Bad("groups", [DOMAIN[:3], [None] * 40]),
    Bad("mode", ["both", None, 3]),
    Bad("random_state", ["seed", -1, 2.5], NO_SEED.replace("seed", "[Ss]eed")),
    Bad("n_jobs", ["two", 2.5]),
    Bad("verbose", ["loud"]),
]
ESTIMATORS = [Bad("estimators", [None, {"a": 3}, LogisticRegression], "clone"), Bad("estimators", [{}], "estimators")]
PREDICTED = [Bad("predictions", [*NO_TABLE, SCORES])]
SCORED = [Bad("scores", [*NO_TABLE, PREDICTIONS])]
PATHS = [Bad("paths", ["one.png", 3, None], "collection"), Bad("paths", [[]], "empty"), Bad("paths", [[None]], "Row 0")]

# Function, arguments that work (or a maker of them from what is on disk), and arguments that must not.
CALLS: dict[Any, tuple[Any, list[Bad]]] = {
    evaluation.cross_domain_predictions: (
        {"estimators": LogisticRegression(), "X": X, "y": Y, "domain": DOMAIN},
        [*ESTIMATORS, *LABELS, Bad("cv", [1, 0, -3, 2.5, "five", None, 30, True])],
    ),
    evaluation.leave_one_domain_out_predictions: (
        {"estimators": LogisticRegression(), "X": X, "y": Y, "domain": DOMAIN},
        [*ESTIMATORS, *LABELS, Bad("domain", [["a"] * 40], "one domain"), Bad("min_cells", [0, 1, 2.5, "x", None])],
    ),
    evaluation.cross_domain_scores: (
        {"estimators": LogisticRegression(), "X": X, "y": Y, "domain": DOMAIN},
        [*LABELS[3:5], Bad("cv", [1])],
    ),
    evaluation.label_curve: (
        {"X": X, "y": Y, "domain": DOMAIN},
        [
            *LABELS[3:4],
            Bad("domain", [DOMAIN[:5], np.where(DOMAIN == "a", None, DOMAIN), None]),
            Bad("groups", [DOMAIN[:3], [None] * 40]),
            Bad("n_labels", [[-1], "8", None, [2.5]]),
            Bad("new", ["a", ["x"], 3]),
            Bad("n_draws", [0, 2.5, None]),
            Bad("random_state", ["seed", -1, 2.5], NO_SEED.replace("seed", "[Ss]eed")),
        ],
    ),
    evaluation.score_predictions: ({"predictions": PREDICTIONS}, PREDICTED),
    evaluation.summarise_scores: ({"scores": SCORES}, SCORED),
    evaluation.cross_domain_mean: ({"scores": SCORES}, [*SCORED, Bad("metric", ["auc", None, 3])]),
    evaluation.per_class_recall: ({"predictions": PREDICTIONS}, PREDICTED),
    evaluation.confusion_shares: ({"predictions": PREDICTIONS}, [Bad("predictions", [*NO_TABLE, SCORES])]),
    evaluation.confidence_intervals: (
        {"predictions": PREDICTIONS, "n_bootstrap": 20},
        [
            *PREDICTED,
            Bad("metric", ["auc", None]),
            Bad("by_pair", ["yes", None]),
            Bad("level", [0, 1, 95, -1, "x", None, np.nan]),
            Bad("n_bootstrap", [0, -1, 2.5, "x", None]),
            Bad("random_state", ["x", 2.5, -1]),
        ],
    ),
    evaluation.compare_pipelines: (
        {"predictions": TWO, "n_bootstrap": 20},
        [
            *PREDICTED,
            Bad("predictions", [PREDICTIONS], "one classifier"),
            Bad("baseline", ["nobody", 3]),
            Bad("metric", ["auc"]),
            Bad("n_bootstrap", [0, 2.5, "x"]),
            Bad("random_state", ["x"]),
        ],
    ),
    evaluation.compare_encoders: (
        {"results": {"a": BENCHMARK, "b": BENCHMARK}},
        [Bad("results", [None, [BENCHMARK], {"a": BENCHMARK}, {"a": 3, "b": 4}, {}]), Bad("random_state", ["x", -1])],
    ),
    evaluation.domain_shift: (
        {"features": X, "domain": DOMAIN},
        [
            Bad("features", [None, X[0], "x", X[:0]], "array|sample|float"),
            Bad("features", [HOLE]),
            Bad("domain", [None, DOMAIN[:5], [np.nan] * 40]),
            Bad("domain", [["a"] * 40, ["a"] * 37 + ["b"] * 3], "at least 5 cells"),
            Bad("y", [Y[:5], NO_LABEL]),
            Bad("random_state", ["x"]),
        ],
    ),
    evaluation.near_duplicates: (
        {"embeddings": X},
        [
            Bad("embeddings", [None, X[0], "x", X[:0]], "array|sample|float"),
            Bad("embeddings", [HOLE]),
            Bad("threshold", ["high", -1, None, np.nan]),
            Bad("reference", [X[:, :3], HOLE, "x", X[:0]], "reference|array|sample|float"),
        ],
    ),
    evaluation.default_classifiers: ({}, [Bad("random_state", ["x", 2.5, -1])]),
    evaluation.run_benchmark: (
        {"cells": TABLE, "embedder": FunctionTransformer(), "autoencoder": None, "classifiers": LogisticRegression()},
        [
            Bad("cells", [None, 3, {}, Bunch(), pd.DataFrame(), TABLE | {"domain": None}, TABLE | {"images": None}]),
            Bad("cells", [Bunch(**TABLE | {"target": np.tile([0, 2], 20)})], "target=2 in row 1"),
            Bad("cells", [Bunch(**TABLE | {"target": np.tile([0, np.nan], 20)})], "target"),
            Bad("embedder", [None, 3]),
            Bad("autoencoder", [3, "auto"]),
            Bad("classifiers", [3], "clone"),
            Bad("classifiers", [{}], "estimators"),
            Bad("cv", [1, None, "x"]),
            Bad("random_state", ["x"]),
            Bad("n_jobs", [2.5]),
        ],
    ),
    fit_abstaining: (
        {},
        [
            Bad("estimator", [3, "LR", LogisticRegression], "clone"),
            Bad("criterion", ["odd", None, 3]),
            Bad("coverage", [0, 1, 2, "x", None, np.nan]),
            Bad("unknown", ["x"]),
            Bad("random_state", ["x"]),
        ],
    ),
    datasets.make_blood_cells: (
        {"n_cells_per_class": 1, "image_size": 32},
        [
            Bad("n_cells_per_class", [0, -1, 2.5, "x", None, True]),
            Bad("classes", [["blast"], [], None, ["monocyte"] * 2, 3]),
            Bad("domains", [["mars"], [], None, ["lab_a"] * 2, 3], "domain"),
            Bad("image_size", [15, 0, 2.5, "x", None]),
            Bad("random_state", ["x", -1, 2.5]),
        ],
    ),
    datasets.draw_cell: (
        {"cell_type": "monocyte", "laboratory": "lab_a", "size": 32, "rng": np.random.default_rng(0)},
        [
            Bad("cell_type", ["blast", None]),
            Bad("laboratory", ["mars", None, 3], "Laboratory"),
            Bad("size", [0, 2.5, "x"]),
            Bad("rng", [None, 0, "x"]),
        ],
    ),
    datasets.load_cells: (
        lambda made: {"csv_or_folder": made.csv},
        [
            Bad("csv_or_folder", [None, 3], NO_PATH),
            Bad("csv_or_folder", ["nowhere", ""], "exist|empty path"),
            Bad("csv_or_folder", [lambda made: made.folder / "cells" / "lab_a"], "domain/label/image"),
            Bad("csv_or_folder", [lambda made: made.cells.paths[0]], "not a readable CSV"),
            Bad("classes", [["blast"], "lymphocyte", 3, ["monocyte"] * 2], "class"),
            Bad("classes", [[]], "No cell"),
            Bad("domains", [["mars"], "lab_a", 3], "domain"),
            Bad("domains", [[]], "No cell"),
            Bad("root", ["nowhere"], "leads out of the folder 'nowhere'"),
            Bad("root", [3], NO_PATH),
        ],
    ),
    datasets.examine_cells: (
        lambda made: {"cells": made.csv},
        [
            Bad("cells", [None, 3, {}, ["a.png"], Bunch()]),
            Bad("cells", ["nowhere"], "exist"),
            Bad("cv", [1, 2.5, "x", None]),
            Bad("root", [3], NO_PATH),
            Bad("verbose", ["x", None]),
        ],
    ),
    datasets.save_cells: (
        lambda made: {"cells": DRAWN, "folder": made.folder / "out"},
        [
            Bad("cells", [None, {}, Bunch(), lambda made: made.cells]),
            Bad("folder", [None, 3], NO_PATH),
            Bad("folder", [lambda made: made.csv], "File exists"),
        ],
    ),
    datasets.join_cells: (
        lambda made: {"parts": made.cells},
        [
            Bad("parts", [None, 3, Bunch(), {}], "cells"),
            Bad("parts", [Bunch(**DRAWN | {"images": None})], "all with paths"),
        ],
    ),
    datasets.drop_unreadable: (lambda made: {"cells": made.cells}, [Bad("cells", [None, 3, {}, DRAWN])]),
    datasets.keep_masked: (
        lambda made: {"cells": made.cells},
        [
            Bad("cells", [None, 3, {}, DRAWN]),
            Bad("cells", [lambda made: Bunch(**made.cells | {"masks": None})], "has a mask"),
        ],
    ),
    datasets.harmonise_labels: (
        {"codes": ["SNE"], "dataset": "acevedo-20"},
        [
            Bad("codes", [["?"], [None], [np.nan]], "Row 0"),
            Bad("codes", [None, 3, "SNE"], "iterable|codes"),
            Bad("dataset", ["mars", None, 3]),
            Bad("scheme", ["x", None]),
            Bad("maps", ["nowhere.csv"], "No such file"),
            Bad("maps", [3], NO_PATH),
            Bad("maps", [pd.DataFrame()], "'maps' lacks"),
        ],
    ),
    datasets.read_label_maps: (
        {},
        [
            Bad("csv", ["nowhere.csv"], "No such file"),
            Bad("csv", [3], NO_PATH),
            Bad("csv", [lambda made: made.csv], "lacks the column"),
            Bad("csv", [lambda made: made.cells.paths[0]], "not a readable CSV"),
        ],
    ),
    datasets.data_home: (
        lambda made: {"folder": made.folder / "home"},
        [Bad("folder", [3], NO_PATH), Bad("folder", [lambda made: made.csv], "File exists")],
    ),
    datasets.fetch_file: (
        NotCalled(url="http://127.0.0.1:9/cells.zip"),
        [
            Bad("url", [None, 3, "", "x", "ftp://127.0.0.1/x", "file:///etc/passwd"]),
            Bad("name", ["../x", "/x"], "leads out"),
            Bad("folder", [3], NO_PATH),
        ],
    ),
    datasets.load_image_dataset: (NotCalled(domain="a"), [Bad("dataset", [None, 3, []])]),
    datasets.read_bloodmnist: (
        NotCalled(),
        [Bad("file", [lambda made: made.csv], "BloodMNIST"), Bad("file", ["nowhere"], "nowhere")],
    ),
    plotting.plot_transfer_matrix: (
        {"scores": SCORES},
        [*SCORED, Bad("metric", ["auc", None]), Bad("classifier", ["nobody", []]), Bad("classifier", [3], "iterable")],
    ),
    plotting.plot_cells: (
        {"images": DRAWN.images[:2]},
        [
            Bad("images", [None, 3, [], DRAWN.images[0]]),
            Bad("masks", [DRAWN.masks[:1]]),
            Bad("masks", [3], "len"),
            Bad("crops", [[]]),
            Bad("reconstructions", [[]]),
            Bad("titles", [["a"]]),
            Bad("title_size", [0, -1, "x", None]),
            Bad("columns", [0, -1, 2.5, "x", None]),
        ],
    ),
    plotting.plot_history: (
        {"history": pd.DataFrame({"epoch": [1], "loss": [1.0]})},
        [Bad("history", [None, 3, pd.DataFrame()]), Bad("history", [pd.DataFrame({"a": ["x"]})], "expected losses")],
    ),
    plotting.plot_confusions: ({"predictions": PREDICTIONS}, [*PREDICTED, Bad("predictions", [TWO])]),
    plotting.plot_mistakes: (
        {"predictions": PREDICTIONS, "images": DRAWN.images[np.zeros(40, int)]},
        [
            *PREDICTED,
            Bad("images", [None, 3, [], DRAWN.images[:1]]),
            Bad("n", [0, -1, 2.5, "x", None]),
            Bad("pair", [3, "ab", ["a"], ("no", "where")]),
        ],
    ),
    plotting.plot_mask_quality: (
        lambda made: {"quality": made.embeddings.quality, "domain": made.cells.domain},
        [Bad("quality", [lambda made: made.embeddings.quality[:1]], "samples"), Bad("domain", [None, ["a"], 3])],
    ),
    plotting.plot_stain: (
        lambda made: {"crops": made.embeddings.crops, "domain": made.cells.domain},
        [Bad("crops", [lambda made: made.embeddings.crops[:1]], "samples"), Bad("domain", [None, ["a"], 3])],
    ),
    plotting.plot_embedding_map: (
        {"features": {"pixels": X}, "domain": DOMAIN, "y": Y},
        [
            Bad("features", [None, X, {}, {"pixels": X[:3]}]),
            Bad("features", [{"pixels": HOLE}], "Input pixels contains NaN"),
            Bad("domain", [None, DOMAIN[:3]]),
            Bad("y", [None], "y=None"),
            Bad("y", [Y[:3]], "lengths"),
            Bad("names", [["a"], []]),
            Bad("method", ["tsne", None]),
        ],
    ),
    write_report: (NotCalled(path="report.html"), [Bad("result", [None, 3, SCORES])]),
    measure_cell: (
        lambda made: {"mask": made.embeddings.masks[0], "crop": made.embeddings.crops[0]},
        [
            Bad("mask", [None, "x", np.zeros((4, 4), bool), lambda made: made.embeddings.masks]),
            Bad("crop", [None, np.full((8, 8, 3), 128, np.uint8), lambda made: made.embeddings.crops]),
        ],
    ),
    CellMorphology().fit: (
        lambda made: {"X": made.embeddings},
        [Bad("X", [None, X, [], ["cell.png"]], "expected CellEmbeddings")],
    ),
    bulk.find_images: (
        lambda made: {"sources": made.folder / "cells"},
        [
            Bad("sources", [None, 3], "iterable"),
            Bad("sources", [[]]),
            Bad("sources", [["nowhere"], "nowhere"], "exist"),
            Bad("sources", [[None], [3]], NO_PATH),
        ],
    ),
    bulk.embed_to_file: (
        lambda made: {
            "embedder": made.embedder,
            "images": made.cells.paths[:1],
            "out": made.folder / "cells.npz",
            "overwrite": True,
        },
        [
            Bad("embedder", [None, 3, SAMLoRAEmbedder], "instance"),
            Bad("embedder", [SAMLoRAEmbedder("vit_tiny")], "not fitted"),
            Bad("images", [None, 3], "iterable"),
            Bad("images", ["cells"]),
            Bad("images", [[], pd.DataFrame()], "images"),
            Bad("images", [["nowhere.png"]], "Row 0: 'nowhere.png' does not exist"),
            Bad("images", [[3]], NO_PATH),
            Bad("out", [None, 3], NO_PATH),
            Bad("out", ["cells.txt", "cells"], "expected a name that ends in"),
            Bad("on_error", ["x", None, "nan"]),
        ],
    ),
    published_results: ({"paper": "dorl"}, [Bad("paper", ["x", None, 3])]),
    reproduce: (NotCalled(matek="matek", acevedo="acevedo"), [Bad("paper", ["x", None, 3])]),
    limit_cells: (
        lambda made: {"cells": made.cells, "n": 1, "random_state": 0},
        [Bad("cells", [None, DRAWN]), Bad("n", [0, 2.5, "x", None]), Bad("random_state", ["x"])],
    ),
    segmentation.stain_mask: (
        {"image": DRAWN.images[0]},
        [
            Bad(
                "image",
                [None, DRAWN.images, "nowhere.png", DRAWN.images[0][:0], DRAWN.images[0].astype(float)],
                "image|Got|nowhere",
            )
        ],
    ),
    read_published_adapter: (
        NotCalled(),
        [Bad("path", [None, 3], NO_PATH), Bad("path", ["nowhere", lambda made: made.csv], "nowhere|not a readable")],
    ),
    read_published_autoencoder: (
        NotCalled(),
        [Bad("path", [None, 3], NO_PATH), Bad("path", ["nowhere", lambda made: made.csv], "nowhere|cells.csv")],
    ),
    **{
        function: (
            {"features": torch.zeros(4, 2), "domain": torch.tensor([0, 0, 1, 1])},
            [
                Bad("features", [torch.zeros(4), torch.zeros(3, 2)]),
                Bad("domain", [torch.zeros(3, dtype=torch.long), torch.zeros(4, 1)]),
            ],
        )
        for function in (alignment.mean_discrepancy, alignment.mmd)
    },
    CellEmbeddings.concatenate: (
        lambda made: {"parts": [made.embeddings, made.embeddings]},
        [Bad("parts", [[X], [3]], "a part"), Bad("parts", [None, 3], "iterable"), Bad("parts", [[]], "concatenate")],
    ),
    save_pretrained: (
        lambda made: {"pipeline": made.embedder, "folder": made.folder / "pipeline"},
        [
            Bad("pipeline", [None, 3, SAMLoRAEmbedder], "instance"),
            Bad("pipeline", [SAMLoRAEmbedder("vit_tiny")], "not fitted"),
            Bad("folder", [None, 3], NO_PATH),
            Bad("folder", [lambda made: made.csv], "File exists"),
            Bad("metrics", [3, ["x"]]),
        ],
    ),
    from_pretrained: (
        NotCalled(folder_or_repo="pipeline"),
        [
            Bad("folder_or_repo", [None, 3], NO_PATH),
            Bad("folder_or_repo", [lambda made: made.folder], "not the folder of a saved pipeline"),
            Bad("trusted", ["x"]),
        ],
    ),
    fit_embedder: (
        lambda made: {"X": made.cells.paths[:2]},
        [
            Bad("X", [None, 3, "one.png"], "collection"),
            Bad("X", [[], np.zeros((3, 3)), pd.DataFrame({"a": ["x"], "b": ["y"]})]),
            Bad("masks", [[], "stain"]),
            Bad("masks", [3, [None, None], lambda made: made.cells.masks[:1]], "mask"),
        ],
    ),
    fit_autoencoder: (
        {"X": X, "domain": DOMAIN},
        [
            Bad("X", [None, 3, [], X[0], X[:1], "x"], "array|sample|float"),
            Bad("X", [HOLE]),
            Bad("domain", [DOMAIN[:3], NO_LABEL, DOMAIN.reshape(2, -1), 3, "a"]),
        ],
    ),
}
CASES = [
    pytest.param(function, bad, value, id=f"{function.__qualname__}-{bad.argument}-{i}.{j}")
    for function, (_, rows) in CALLS.items()
    for i, bad in enumerate(rows)
    for j, value in enumerate(bad.values)
]


def working(function, made):
    good = CALLS[function][0]
    return good(made) if callable(good) else dict(good)


def called(function, arguments):
    if function is datasets.join_cells:  # takes its parts one by one
        return function(arguments["parts"])
    return function(**arguments)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__qualname__)
def test_the_arguments_that_work_do(function, made):
    if not isinstance(CALLS[function][0], NotCalled):
        called(function, working(function, made))


@pytest.mark.bad_argument
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("function", "bad", "value"), CASES)
def test_a_bad_argument_is_named(function, bad, value, made):
    if callable(value) and getattr(value, "__name__", "") == "<lambda>":
        value = value(made)
    with pytest.raises((TypeError, ValueError, OSError)) as raised:
        called(function, working(function, made) | {bad.argument: value})
    assert re.search(bad.says or bad.argument, str(raised.value)), raised.value


def test_no_public_function_is_forgotten():
    """All but those that read one dataset's folder or push to the Hub, and those of a result or a network."""
    elsewhere = re.compile(r"load_(?!cells|image_dataset)|fetch_(?!file)|push_to_hub|read_pretrained")
    functions = set(re.findall(r"^   ((?:\w+\.)*[a-z_0-9]+)$", API.read_text(), flags=re.MULTILINE))
    functions |= {f"sam_bloodcell.evaluation.{name}" for name in evaluation.__all__}
    tried = {function.__qualname__.split(".")[-1] for function in CALLS}
    left = {
        name
        for name in (path.split(".")[-1] for path in functions if not re.match(r"evaluation\.findings|models", path))
        if not elsewhere.match(name) and name not in tried and callable(getattr(evaluation, name, len))
    }
    assert left == {"AbstainingClassifier", "BenchmarkResult"}  # fit_abstaining; a result, which nobody makes


@pytest.mark.parametrize("kind", [CellClassifier, SAMLoRAEmbedder, CrossDomainAutoencoder])
def test_every_parameter_of_an_estimator_is_checked_and_named(kind):
    """Of the wrong type, at `fit` and not before, so that `clone` and searches work."""
    names = list(inspect.signature(kind).parameters)
    assert set(names) == set(kind._parameter_constraints)
    for name in names:
        estimator = clone(kind().set_params(**{name: clone}))
        with pytest.raises(ValueError, match=f"The '{name}' parameter of {kind.__name__} must be"):
            estimator.fit(X, Y)


RANGES = {
    SAMLoRAEmbedder: {
        "image_size": [0, 15, 100], "prompt": ["box"], "pixel_stats": ["imagenet", (1, 2)],
        "keep": ["tokens", ["masks"]], "dtype": ["int8"], "batch_size": [0, "big"], "on_error": ["skip"],
        "device": ["gpu"], "backbone": ["vit_x"],
    },
    LoRATraining: {
        "rank": [0], "alpha": [0], "dropout": [1, -0.1], "epochs": [0], "warmup_epochs": [-1], "learning_rate": [0],
        "weight_decay": [-1], "batch_size": [0], "validation_fraction": [1, -0.1], "patience": [0],
        "random_state": [-1],
    },
    CrossDomainAutoencoder: {
        "n_components": [0], "architecture": ["unet"], "preset": ["ae"], "alignment": ["gan"], "alignment_weight": [-1],
        "normalization": ["batch"], "embedding_weight": [-1], "crop_size": [100], "epochs": [0], "learning_rate": [0],
        "weight_decay": [-1], "batch_size": [0], "warmup_steps": [-1], "patience": [0], "validation_fraction": [1],
        "device": ["gpu"], "random_state": [-1],
    },
}  # fmt: skip


@pytest.mark.bad_argument
@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(kind, name, value) for kind, table in RANGES.items() for name, values in table.items() for value in values],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_a_parameter_out_of_range_is_named(kind, name, value, made):
    if kind is SAMLoRAEmbedder:
        fit = partial(kind(**{"backbone": "vit_tiny", name: value}).fit, made.cells.paths, masks=made.cells.masks)
    elif kind is LoRATraining:
        embedder = SAMLoRAEmbedder("vit_tiny", training=kind(**{name: value}))
        fit = partial(embedder.fit, made.cells.paths, masks=made.cells.masks)
    else:
        fit = partial(kind(**{name: value}).fit, X, domain=DOMAIN)
    with pytest.raises((ValueError, RuntimeError), match=rf"{name}|{value}"):
        fit()


# Odd, yet nothing is wrong with it.


@pytest.mark.filterwarnings("ignore:The domain of 1 of 1 cells is unknown")
def test_one_cell_one_class_one_laboratory(made):
    assert made.embedder.transform(made.cells.paths[:1]).shape == (1, 192)
    with pytest.warns(UserWarning, match="one domain, 'a'"):
        alone = CrossDomainAutoencoder(2, epochs=1, random_state=0).fit(X, domain=["a"] * 40)
    assert alone.transform(X[:1]).shape == (1, 2)
    inside = evaluation.cross_domain_predictions(LogisticRegression(), X, Y, domain=["a"] * 40, random_state=0)
    assert len(inside) == 40


def test_the_same_path_twice_is_two_equal_rows(made):
    twice = made.embedder.transform([made.cells.paths[0]] * 2)
    np.testing.assert_array_equal(twice.pooled[0], twice.pooled[1])


def test_paths_of_every_alphabet(tmp_path, made):
    folder = tmp_path / "Ätzschale 3, 血球 #1 %20"
    names = {"lymphocyte": "Лимфоцит é", "monocyte": "單核 球"}
    cells = make_blood_cells(2, classes=list(names), domains=["lab_a"], image_size=32, random_state=0)
    cells.target_names, cells.domain = list(names.values()), np.full(len(cells.target), "Zürich & Söhne")
    loaded = load_cells(save_cells(cells, folder / "cells"))
    assert loaded.target_names == sorted(names.values())
    assert load_cells(folder / "cells").domain.tolist() == ["Zürich & Söhne"] * 4
    table = bulk.find_images(folder / "cells")
    out = bulk.embed_to_file(made.embedder, table, folder / "zellen, 1.parquet")
    assert pd.read_parquet(out)["path"].tolist() == table["path"].tolist()
    cached = SAMLoRAEmbedder("vit_tiny", cache_dir=folder / "cache é").fit(loaded.paths)
    saved = Path(cached.save_pretrained(folder / "adapter ü"))
    again = SAMLoRAEmbedder.from_pretrained(saved)
    np.testing.assert_array_equal(cached.transform(loaded.paths).pooled, again.transform(loaded.paths).pooled)
