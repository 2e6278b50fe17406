"""More than one machine: chunks on a Dask cluster of two worker processes."""

import os
import signal
import warnings
from functools import partial
from unittest import mock

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sam_bloodcell import SAMLoRAEmbedder, ViTEmbedder
from sam_bloodcell.bulk import embed_to_file
from sam_bloodcell.datasets import load_cells, make_blood_cells, save_cells
from sam_bloodcell.embedding import network
from sam_bloodcell.images.reading import read_content

distributed = pytest.importorskip("distributed")
# Dask's own: deprecations of its dependencies, sockets that it closes late.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def client():
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        warnings.simplefilter("ignore")
        yield client


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    return load_cells(save_cells(make_blood_cells(4, random_state=0), folder))


@pytest.fixture(params=["sam", "vit"])
def make(request, vit_file):
    return {"sam": partial(SAMLoRAEmbedder, "vit_tiny"), "vit": partial(ViTEmbedder, str(vit_file))}[request.param]


def loaded_networks():
    return int(network._last.sam is not None), int(network._last.vit is not None)


def free_networks():
    network.free_network()


def one_by_one(paths):
    return ([(row, read_content(path, row))] for row, path in enumerate(paths))


@pytest.mark.slow
def test_chunks_go_to_the_workers_and_weights_are_loaded_there(client, cells, make):
    embedder = make(batch_size=4).fit(cells.paths)
    expected = embedder.transform(cells.paths)
    network.free_network()
    client.run(free_networks)
    with joblib.parallel_config("dask"):
        done = list(embedder.encoder_.stream(one_by_one(cells.paths)))
    assert loaded_networks() == (0, 0)
    assert set(client.run(loaded_networks).values()) == {(1, int(make.func is ViTEmbedder))}
    rows = [part.rows[0] for part in done]
    assert sorted(rows) == list(range(40))
    pooled = np.concatenate([[record.pooled for record in part.records] for part in done])[np.argsort(rows)]
    np.testing.assert_allclose(pooled, expected.pooled, atol=0.1)


def embed_without_parallel(paths):
    waits = mock.patch("joblib.Parallel", side_effect=AssertionError("a task that waits for tasks"))
    with waits, joblib.parallel_config("dask"):
        return len(SAMLoRAEmbedder("vit_tiny").fit_transform(paths))


def test_a_task_embeds_where_it_is(client, cells):
    assert client.submit(embed_without_parallel, cells.paths[:2]).result(timeout=60) == 2


@pytest.mark.slow
def test_a_search_and_a_bulk_embedding_run_on_the_cluster(client, cells, tmp_path):
    embedder = SAMLoRAEmbedder("vit_tiny", cache_dir=tmp_path / "cache")
    pipeline = make_pipeline(embedder, LogisticRegression(max_iter=2000))
    grid = {"logisticregression__C": [0.1, 1]}
    with joblib.parallel_config("dask"):
        search = GridSearchCV(pipeline, grid, cv=3).fit(cells.paths, cells.target)
        fitted = embedder.fit(cells.paths)
        out = embed_to_file(fitted, cells.paths, tmp_path / "cells.npz")
    assert search.best_score_ > 0.5
    np.testing.assert_allclose(np.load(out)["embeddings"], fitted.transform(cells.paths).pooled, atol=0.1)


@pytest.mark.slow
@pytest.mark.fault
def test_a_worker_that_dies_costs_its_chunks(client, cells, make):
    embedder = make(batch_size=1).fit(cells.paths)
    victim, seen = client.run(os.getpid).popitem()[1], []
    with joblib.parallel_config("dask"):
        for done in embedder.encoder_.stream(one_by_one(cells.paths)):
            seen += done.rows
            if len(seen) == 5:
                os.kill(victim, signal.SIGKILL)
    assert sorted(seen) == list(range(40))
