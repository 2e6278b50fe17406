"""The forward pass: batches that shrink, processes that share, weights that travel by reference."""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from tests.counting import FatalEmbedder

from sam_bloodcell import ImageReadError, SAMLoRAEmbedder, WeightsUnavailableError
from sam_bloodcell.datasets import make_blood_cells, save_cells
from sam_bloodcell.embedding import encoder as encoder_module
from sam_bloodcell.embedding import network
from sam_bloodcell.embedding.encoder import Encoder
from sam_bloodcell.embedding.recipe import NetworkSpec, Recipe
from sam_bloodcell.images.frames import load_square
from sam_bloodcell.images.reading import read_content
from sam_bloodcell.models.sam import SAM, SIZES
from sam_bloodcell.weights.adapters import read_adapter_file, write_adapter_file
from sam_bloodcell.weights.backbones import Backbone


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
    run, seen = encoder_module.run_network, []

    def limited(sam, recipe, pixels):
        if len(pixels) > most:
            raise torch.OutOfMemoryError("no room")
        seen.append(len(pixels))
        return run(sam, recipe, pixels)

    monkeypatch.setattr(encoder_module, "run_network", limited)
    return seen


def test_a_batch_too_large_for_the_memory_is_halved(encoder, cells, monkeypatch):
    pixels = np.stack([load_square(image, 224) for image in cells.images[:5]])
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
        encoder.forward(load_square(cells.images[0], 224)[None])


@pytest.mark.slow
def test_processes_give_the_same_rows(cells):
    embedder = SAMLoRAEmbedder("vit_tiny", batch_size=3, n_jobs=2).fit(cells.images)
    spread = embedder.transform(cells.images)
    alone = embedder.set_params(n_jobs=None).encoder_
    chunks = ([(i, read_content(cells.images[i])) for i in range(a, min(a + 3, 10))] for a in (0, 3, 6, 9))
    expected = np.stack([record.pooled for done in alone.stream(chunks) for record in done.records])
    np.testing.assert_allclose(spread.pooled, expected, atol=1e-3)


def test_unreadable_images_are_reported_or_raised(encoder, paths, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    chunks = [[(0, paths[0]), (1, bad)], [(2, bad)], [(3, paths[1])]]
    chunks = [[(row, read_content(path, row)) for row, path in chunk] for chunk in chunks]
    done = list(encoder.stream(iter(chunks), skip_unreadable=True))
    assert [(part.rows, len(part.records)) for part in done] == [([0], 1), ([], 0), ([3], 1)]
    assert [row for part in done for row, _ in part.errors] == [1, 2]
    assert "bad.png" in done[1].errors[0][1]
    with pytest.raises(ImageReadError, match=r"Row 1: .*bad\.png"):
        list(encoder.stream(iter(chunks)))


def test_the_digest_follows_all_but_the_device(encoder):
    recipe = encoder.recipe
    spec = recipe.network
    others = [
        replace(recipe, prompt="center"),
        replace(recipe, pixel_stats=((0.0,) * 3, (1.0,) * 3)),
        *(
            replace(recipe, network=replace(spec, **change))
            for change in (
                {"adapter": None},
                {"image_size": 64},
                {"dtype": "float16"},
                {"backbone": replace(spec.backbone, digest="0")},
            )
        ),
    ]
    assert len({recipe.digest, *(other.digest for other in others)}) == 7
    elsewhere = replace(recipe, network=replace(spec, device="cuda"))
    assert elsewhere.digest == recipe.digest == pickle.loads(pickle.dumps(recipe)).digest


def test_the_last_network_is_kept_and_no_other(encoder):
    first = encoder.network()
    assert encoder.network() is first
    smaller = Encoder(replace(encoder.recipe, network=replace(encoder.recipe.network, image_size=64)), encoder.adapter)
    assert smaller.network() is not first
    assert network._last.spec == smaller.recipe.network
    network.free_network()
    assert network._last.sam is None
    assert smaller.network() is not first


def test_an_adapter_travels_in_one_file(encoder, tmp_path):
    write_adapter_file(encoder.adapter, tmp_path / "a.safetensors")
    again = read_adapter_file(tmp_path / "a.safetensors")
    assert again.digest() == encoder.adapter.digest()
    assert (again.lora_config, again.pixel_stats) == (encoder.adapter.lora_config, encoder.adapter.pixel_stats)


def test_weights_travel_by_reference(encoder, paths, tmp_path):
    with encoder._travelling() as packaged:
        assert packaged.adapter == ""  # ships with the package
    own = replace(encoder.adapter, pixel_stats=((1.0,) * 3, (2.0,) * 3))
    spec = replace(encoder.recipe.network, adapter=own.digest())
    tuned = Encoder(replace(encoder.recipe, network=spec), own, shared=tmp_path / "new")
    pixels = np.stack([load_square(image, 224) for image in paths[:2]])
    expected = tuned.forward(pixels)
    with tuned._travelling() as travelled:
        path = Path(travelled.adapter)
        assert path.is_relative_to(tmp_path)
        assert path.parent.stat().st_mode & 0o077 == 0  # nobody else may read or replace it
        assert len(pickle.dumps(travelled)) < 5000
        network.free_network()
        np.testing.assert_array_equal(travelled.forward(pixels)[0], expected[0])
        network.free_network()
        write_adapter_file(encoder.adapter, path)
        with pytest.raises(WeightsUnavailableError, match="is not the adapter of this embedder"):
            travelled.network()
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(WeightsUnavailableError, match=r"Fix: set cache_dir to a folder that all workers share"):
        travelled.network()


@pytest.mark.parametrize(("name", "expected"), [("vit_tiny", 34), ("vit_b", 8), ("vit_h", 5)])
def test_batches_are_sized_to_the_memory(monkeypatch, name, expected):
    with torch.device("meta"):
        sam = SAM(SIZES[name], 224).to(torch.bfloat16)
    monkeypatch.setattr(Encoder, "network", lambda self: sam)
    recipe = Recipe(NetworkSpec(Backbone(name), None, 224, "bfloat16"), ((0.0,) * 3, (1.0,) * 3), "none")
    assert Encoder(recipe).images_per_pass() == expected
    monkeypatch.setattr(encoder_module, "_ACTIVATION_BYTES", {"cpu": 1})
    assert Encoder(recipe).images_per_pass() == 1
    assert (
        Encoder(recipe, batch_size=3).images_per_pass()
        == Encoder(recipe, batch_size=np.int64(3)).images_per_pass()
        == 3
    )


def test_the_papers_crops_have_a_recipe_of_their_own_and_the_others_keep_theirs():
    spec = NetworkSpec(Backbone("vit_tiny"), "adapter", 224, "float32")
    ours = Recipe(spec, ((0.0,) * 3, (1.0,) * 3), "none")
    parts = (2, spec.backbone.digest, "adapter", 224, "float32", ours.pixel_stats, "none")
    assert ours.digest == hashlib.sha256(repr(parts).encode()).hexdigest()
    assert replace(ours, published_crops=True).digest != ours.digest


@pytest.mark.slow
@pytest.mark.fault
def test_a_worker_that_dies_costs_its_chunk(cells, tmp_path, monkeypatch):
    get_reusable_executor().shutdown()  # workers of earlier tests do not know the marker
    monkeypatch.setenv("KILL_ONCE", str(tmp_path / "killed"))
    with joblib.parallel_config("loky", n_jobs=2), pytest.warns(UserWarning, match="A worker process died"):
        embeddings = FatalEmbedder("vit_tiny", batch_size=2).fit(cells.images).transform(cells.images)
    assert (tmp_path / "killed").exists()
    expected = SAMLoRAEmbedder("vit_tiny", batch_size=2).fit(cells.images).transform(cells.images[:2])
    assert embeddings.shape == (10, 192)
    np.testing.assert_allclose(embeddings.pooled[:2], expected.pooled, atol=0.1)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_gpu_gives_the_tokens_of_the_cpu(cells, dtype, gpu):
    pixels = np.stack([load_square(image, 224) for image in cells.images[:3]])
    on_cpu, on_gpu = (
        SAMLoRAEmbedder("vit_tiny", device=device, dtype=kind).fit(cells.images).encoder_.forward(pixels)[0]
        for device, kind in (("cpu", "float32"), (gpu, dtype))
    )
    flat = [torch.from_numpy(tokens).flatten(1) for tokens in (on_cpu, on_gpu)]
    assert torch.nn.functional.cosine_similarity(*flat).min() > 0.999


@pytest.mark.cuda
@pytest.mark.parametrize(("dtype", "atol", "dice"), [("float32", 0.05, 0.999), ("bfloat16", 0.5, 0.98)])
def test_a_gpu_gives_the_embeddings_and_masks_of_the_cpu(cells, dtype, atol, dice, gpu):
    on_cpu, on_gpu = (
        SAMLoRAEmbedder("vit_tiny", device=device, dtype=kind).fit(cells.images).transform(cells.images)
        for device, kind in (("cpu", "float32"), (gpu, dtype))
    )
    np.testing.assert_allclose(on_gpu.pooled, on_cpu.pooled, atol=atol)
    both = 2 * (on_gpu.masks & on_cpu.masks).sum() / (on_gpu.masks.sum() + on_cpu.masks.sum())
    assert both > dice


@pytest.fixture
def little_memory(cells, gpu, monkeypatch):
    """Return an encoder on a GPU that has room for about 32 images in a pass."""
    network.free_network()
    encoder = SAMLoRAEmbedder("vit_tiny", device=gpu, dtype="float32").fit(cells.images).encoder_
    if gpu == "cpu":
        _with_room_for(32, monkeypatch)
        yield encoder
        return
    torch.cuda.reset_peak_memory_stats()
    encoder.forward(np.zeros((8, 224, 224, 3), np.uint8))
    torch.cuda.empty_cache()
    room = 4 * torch.cuda.max_memory_allocated() / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(room)
    yield encoder
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.cuda
def test_a_batch_too_large_for_a_gpu_is_halved_until_it_fits(cells, little_memory):
    pixels = np.stack([load_square(image, 224) for image in cells.images[:8]])
    expected = little_memory.forward(pixels)
    with pytest.warns(UserWarning, match=r"images in a forward pass are too many") as caught:
        found = little_memory.forward(np.tile(pixels, (16, 1, 1, 1)))
    assert "128 images" in str(caught[0].message)
    assert "Fix: batch_size=64" in str(caught[0].message)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.reshape(16, *b.shape), np.broadcast_to(b, (16, *b.shape)), rtol=0.01, atol=0.1)
