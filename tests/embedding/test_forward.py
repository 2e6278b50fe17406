"""The forward pass: batches that shrink, processes that share, weights that travel by reference."""

import pickle
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from sam_bloodcell import ImageReadError, SAMLoRAEmbedder, WeightsUnavailableError
from sam_bloodcell.datasets import make_blood_cells, save_cells
from sam_bloodcell.embedding import forward
from sam_bloodcell.embedding.forward import Encoder, Recipe, Weights
from sam_bloodcell.models.sam import SAM, SIZES
from sam_bloodcell.weights import hub


@pytest.fixture(scope="module")
def cells():
    return make_blood_cells(1, random_state=0)


@pytest.fixture(scope="module")
def paths(cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    save_cells(cells, folder)
    return sorted(str(path) for path in folder.rglob("*.png") if not path.stem.endswith("_mask"))


@pytest.fixture(scope="module")
def encoder(cells):
    return SAMLoRAEmbedder("vit_tiny", batch_size=4).fit(cells.images).encoder_


def _with_room_for(most, monkeypatch):
    run, seen = forward._forward, []

    def limited(sam, recipe, pixels):
        if len(pixels) > most:
            raise torch.OutOfMemoryError("no room")
        seen.append(len(pixels))
        return run(sam, recipe, pixels)

    monkeypatch.setattr(forward, "_forward", limited)
    return seen


def test_a_batch_too_large_for_the_memory_is_halved(encoder, cells, monkeypatch):
    pixels = np.stack([forward.load_square(image, 224) for image in cells.images[:5]])
    expected = encoder.forward(pixels)
    seen = _with_room_for(3, monkeypatch)
    with pytest.warns(UserWarning, match=r"5 images in a forward pass are too many .*Fix: batch_size=3"):
        halved = encoder.forward(pixels)
    assert seen == [3, 2]
    for a, b in zip(halved, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=0.1)


def test_one_image_too_large_is_an_error(encoder, cells, monkeypatch):
    _with_room_for(0, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        encoder.forward(forward.load_square(cells.images[0], 224)[None])


def test_processes_give_the_same_rows(cells):
    embedder = SAMLoRAEmbedder("vit_tiny", batch_size=3, n_jobs=2).fit(cells.images)
    spread = embedder.transform(cells.images)
    alone = embedder.set_params(n_jobs=None).encoder_
    expected = np.concatenate(
        [
            done.cells.pooled
            for done in alone.stream([[(i, cells.images[i]) for i in range(a, min(a + 3, 10))] for a in (0, 3, 6, 9)])
        ]
    )
    np.testing.assert_allclose(spread.pooled, expected, atol=1e-3)


def test_unreadable_images_are_reported_or_raised(encoder, paths, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    chunks = [[(0, paths[0]), (1, bad)], [(2, bad)], [(3, paths[1])]]
    done = list(encoder.stream(chunks, skip_unreadable=True, finish=len))
    assert [(part.rows, part.cells) for part in done] == [([0], 1), ([], None), ([3], 1)]
    assert [row for part in done for row, _ in part.errors] == [1, 2]
    assert "bad.png" in done[1].errors[0][1]
    with pytest.raises(ImageReadError, match=r"Row 1: .*bad\.png"):
        list(encoder.stream(chunks))


def test_the_digest_follows_all_but_the_device(encoder):
    recipe = encoder.recipe
    weights = recipe.weights
    others = [
        replace(recipe, prompt="center"),
        replace(recipe, pixel_stats=((0.0,) * 3, (1.0,) * 3)),
        *(
            replace(recipe, weights=replace(weights, **change))
            for change in (
                {"adapter": None},
                {"image_size": 64},
                {"dtype": "float16"},
                {"backbone": replace(weights.backbone, digest="0")},
            )
        ),
    ]
    assert len({recipe.digest, *(other.digest for other in others)}) == 7
    elsewhere = replace(recipe, weights=replace(weights, device="cuda"))
    assert elsewhere.digest == recipe.digest == pickle.loads(pickle.dumps(recipe)).digest


def test_the_last_network_is_kept_and_no_other(encoder):
    first = encoder.network()
    assert encoder.network() is first
    smaller = Encoder(replace(encoder.recipe, weights=replace(encoder.recipe.weights, image_size=64)), encoder.adapter)
    assert smaller.network() is not first
    assert list(forward._loaded) == [smaller.recipe.weights]


def test_an_adapter_packs_and_unpacks(encoder):
    again = hub.unpack_adapter(hub.pack_adapter(encoder.adapter))
    assert again.digest() == encoder.adapter.digest()
    assert (again.lora_config, again.pixel_stats) == (encoder.adapter.lora_config, encoder.adapter.pixel_stats)


def test_weights_travel_by_reference(encoder, paths, tmp_path):
    assert encoder._by_reference() == ""  # ships with the package
    own = replace(encoder.adapter, pixel_stats=((1.0,) * 3, (2.0,) * 3))
    weights = replace(encoder.recipe.weights, adapter=own.digest())
    tuned = Encoder(replace(encoder.recipe, weights=weights), own, shared=tmp_path)
    path = tuned._by_reference()
    assert len(pickle.dumps((tuned.recipe, path, list(enumerate(paths))))) < 5000
    travelled = Encoder(tuned.recipe, path)
    pixels = np.stack([forward.load_square(image, 224) for image in paths[:2]])
    expected = tuned.forward(pixels)
    forward._loaded.clear()
    np.testing.assert_array_equal(travelled.forward(pixels)[0], expected[0])
    forward._loaded.clear()
    Path(path).write_bytes(hub.pack_adapter(encoder.adapter))
    with pytest.raises(WeightsUnavailableError, match="is not the adapter of this embedder"):
        travelled.network()
    Path(path).unlink()
    with pytest.raises(WeightsUnavailableError, match=r"Fix: set cache_dir to a folder that all workers share"):
        travelled.network()


@pytest.mark.parametrize(("name", "expected"), [("vit_tiny", 34), ("vit_b", 8), ("vit_h", 5)])
def test_batches_are_sized_to_the_memory(monkeypatch, name, expected):
    with torch.device("meta"):
        sam = SAM(SIZES[name], 224).to(torch.bfloat16)
    monkeypatch.setattr(Encoder, "network", lambda self: sam)
    recipe = Recipe(Weights(hub.Backbone(name), None, 224, "bfloat16"), ((0.0,) * 3, (1.0,) * 3), "none")
    assert Encoder(recipe).images_per_pass() == expected
    monkeypatch.setattr(forward, "_ACTIVATION_BYTES", {"cpu": 1})
    assert Encoder(recipe).images_per_pass() == 1
    assert Encoder(recipe, batch_size=3).images_per_pass() == 3


@pytest.mark.fault
def test_a_worker_that_dies_costs_its_chunk(cells, tmp_path, monkeypatch):
    monkeypatch.setenv("KILL_ONCE", str(tmp_path / "killed"))
    with joblib.parallel_config("loky", n_jobs=2), pytest.warns(UserWarning, match="A worker process died"):
        embeddings = Fatal("vit_tiny", batch_size=2).fit(cells.images).transform(cells.images)
    assert (tmp_path / "killed").exists()
    expected = SAMLoRAEmbedder("vit_tiny", batch_size=2).fit(cells.images).encoder_
    assert embeddings.shape == (10, 192)
    pixels = np.stack([forward.load_square(image, 224) for image in cells.images[:2]])
    np.testing.assert_allclose(embeddings.tokens[:2], expected.forward(pixels)[0], atol=0.1)


class Fatal(SAMLoRAEmbedder):
    """Its images kill the first process other than this one that reads them."""

    def transform(self, X):
        return super().transform([_Killing(image) for image in X])


class _Killing:
    def __init__(self, pixels):
        self.pixels = pixels

    def __array__(self, dtype=None, copy=None):
        return self.pixels

    def __setstate__(self, state):
        import os
        import signal
        from pathlib import Path

        self.__dict__ = state
        marker = Path(os.environ["KILL_ONCE"])
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_cuda_gives_the_tokens_of_the_cpu(cells, dtype):
    pixels = np.stack([forward.load_square(image, 224) for image in cells.images[:3]])
    on_cpu, on_cuda = (
        SAMLoRAEmbedder("vit_tiny", device=device, dtype=kind).fit(cells.images).encoder_.forward(pixels)[0]
        for device, kind in (("cpu", "float32"), ("cuda", dtype))
    )
    flat = [torch.from_numpy(tokens).flatten(1) for tokens in (on_cpu, on_cuda)]
    assert torch.nn.functional.cosine_similarity(*flat).min() > 0.999
