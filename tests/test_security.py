"""Foreign files are handed to every loader: refused, with an error of ours, and nothing in them runs."""

import io
import json
import os
import pickle
import sqlite3
import zipfile
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils import Bunch

from sam_bloodcell import CrossDomainAutoencoder, SAMLoRAEmbedder, WeightsUnavailableError, from_pretrained
from sam_bloodcell.datasets import load_cells, make_blood_cells, read_bloodmnist, save_cells
from sam_bloodcell.published import read_published_adapter
from sam_bloodcell.segmentation import LoRATraining
from sam_bloodcell.weights.adapters import packaged_adapter, read_adapter_file, write_adapter
from sam_bloodcell.weights.backbones import Backbone

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch's remark before it refuses

CELLS = make_blood_cells(1, domains=["lab_a"], classes=["lymphocyte", "monocyte"], random_state=0)


class Trap:
    """What makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def trap(tmp_path):
    marker = tmp_path / "it ran"
    yield Trap(marker)
    assert not marker.exists()


def plain_pickle(trap):
    return pickle.dumps(trap)


def torch_file(trap):
    content = io.BytesIO()
    torch.save({"image_encoder.pos_embed": trap, "w_a_000": trap}, content)
    return content.getvalue()


def numpy_file(trap):
    content = io.BytesIO()
    np.save(content, np.array([trap], dtype=object), allow_pickle=True)
    return content.getvalue()


def numpy_archive(trap):
    content = io.BytesIO()
    np.savez(content, train_images=np.array([trap], dtype=object))
    return content.getvalue()


FOREIGN = [plain_pickle, torch_file, numpy_file]


def test_the_trap_works(tmp_path):
    pickle.loads(plain_pickle(Trap(tmp_path / "it ran")))
    assert (tmp_path / "it ran").is_dir()
    (tmp_path / "again").mkdir()
    with pytest.raises(FileExistsError):
        torch.load(io.BytesIO(torch_file(Trap(tmp_path / "again"))), weights_only=False)


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.safetensors", "model.safetensors"])
def test_backbones(tmp_path, trap, content, name):
    (tmp_path / name).write_bytes(content(trap))
    backbone = tmp_path if name == "model.safetensors" else tmp_path / name
    with pytest.raises(WeightsUnavailableError, match="not a readable weights file"):
        SAMLoRAEmbedder(str(backbone)).fit(CELLS.images)


@pytest.mark.parametrize("content", FOREIGN)
def test_published_adapters(tmp_path, trap, content):
    path = tmp_path / "published.pth"
    path.write_bytes(content(trap))
    with pytest.raises(WeightsUnavailableError, match="not a readable weights file"):
        read_published_adapter(path)
    with pytest.raises(WeightsUnavailableError, match="not a readable weights file"):
        SAMLoRAEmbedder("vit_tiny", path).fit(CELLS.images)


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "decoder.safetensors"])
def test_adapter_folders(tmp_path, trap, content, name):
    folder = SAMLoRAEmbedder("vit_tiny").fit(CELLS.images).save_pretrained(tmp_path / "adapter")
    (folder / name).write_bytes(content(trap))
    (folder / "adapter_model.bin").write_bytes(content(trap))  # PEFT's older, pickled name is never looked at
    with pytest.raises(WeightsUnavailableError, match="not a readable weights file"):
        SAMLoRAEmbedder.from_pretrained(folder)


@pytest.mark.parametrize("content", FOREIGN)
def test_adapters_that_travel_to_workers(tmp_path, trap, content):
    (tmp_path / "adapter.safetensors").write_bytes(content(trap))
    with pytest.raises(WeightsUnavailableError, match="damaged"):
        read_adapter_file(tmp_path / "adapter.safetensors")


@pytest.mark.parametrize("content", FOREIGN)
def test_checkpoints_of_a_training(tmp_path, trap, content):
    checkpoint = tmp_path / "run.ckpt"
    checkpoint.write_bytes(content(trap))
    embedder = SAMLoRAEmbedder(
        "vit_tiny", training=LoRATraining(epochs=1, validation_fraction=0, checkpoint=checkpoint, random_state=0)
    )
    with pytest.raises(ValueError, match=r"run\.ckpt' is not a checkpoint of a training: .*Fix: delete it"):
        embedder.fit(CELLS.images, masks=CELLS.masks)
    assert checkpoint.read_bytes() == content(trap)


@pytest.mark.parametrize("content", FOREIGN)
def test_autoencoders(tmp_path, trap, content):
    autoencoder = CrossDomainAutoencoder(epochs=1, random_state=0)
    with pytest.warns(UserWarning, match="domain"):
        autoencoder.fit(np.random.default_rng(0).normal(size=(20, 4)))
    folder = autoencoder.save_pretrained(tmp_path / "autoencoder")
    (folder / "autoencoder.safetensors").write_bytes(content(trap))
    with pytest.raises(WeightsUnavailableError, match="not a readable weights file"):
        CrossDomainAutoencoder.from_pretrained(folder)


@pytest.mark.parametrize("content", FOREIGN)
def test_pipelines_that_are_pickles(tmp_path, trap, content):
    (tmp_path / "pipeline.skops").write_bytes(content(trap))
    with pytest.raises(WeightsUnavailableError, match=r"is not a readable pipeline: .*Fix: "):
        from_pretrained(tmp_path)


def test_pipelines_that_build_foreign_objects(tmp_path, trap):
    schema = {
        "__class__": "mkdir", "__module__": "os", "__loader__": "FunctionNode", "__id__": 1, "content": trap.marker,
        "protocol": 2, "_skops_version": "0.11",
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "pipeline.skops", "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
    with pytest.raises(ValueError, match=r"types that are not trusted: .*mkdir"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("checksum_is_right", [True, False])
def test_cache_entries(tmp_path, trap, content, checksum_is_right):
    """A record that holds objects is neither run nor believed, even if its checksum is right."""
    embedder = SAMLoRAEmbedder("vit_tiny", cache_dir=tmp_path / "cache").fit(CELLS.images)
    expected = embedder.transform(CELLS.images).pooled
    foreign = content(trap)
    with closing(sqlite3.connect(tmp_path / "cache" / "embeddings.sqlite")) as table, table:
        for (key,) in table.execute("SELECT key FROM cell").fetchall():
            checksum = zlib.crc32(key + 3 * foreign) if checksum_is_right else 0
            table.execute(
                "UPDATE cell SET pooled = ?, quality = ?, mask = ?, checksum = ? WHERE key = ?",
                (foreign, foreign, foreign, checksum, key),
            )
    np.testing.assert_array_equal(embedder.transform(CELLS.images).pooled, expected)


@pytest.mark.parametrize("content", FOREIGN)
def test_cache_tables(tmp_path, trap, content):
    """A file in the place of the cache's table is replaced by a new table."""
    embedder = SAMLoRAEmbedder("vit_tiny", cache_dir=tmp_path / "cache").fit(CELLS.images)
    expected = embedder.transform(CELLS.images).pooled
    (tmp_path / "cache" / "embeddings.sqlite").write_bytes(content(trap))
    np.testing.assert_array_equal(embedder.transform(CELLS.images).pooled, expected)


def test_data_sets(tmp_path, trap):
    (tmp_path / "bloodmnist.npz").write_bytes(numpy_archive(trap))
    with pytest.raises(ValueError, match=r"bloodmnist\.npz.*Fix: "):
        read_bloodmnist(tmp_path / "bloodmnist.npz")


@pytest.mark.parametrize("column", ["path", "mask"])
def test_tables_cannot_name_files_elsewhere(tmp_path, column):
    csv = save_cells(CELLS, tmp_path / "cells")
    secret = tmp_path / "secret.png"
    secret.write_bytes(Path(load_cells(csv).paths[0]).read_bytes())
    text = csv.read_text().splitlines()
    row = dict(zip(text[0].split(","), text[1].split(","), strict=True)) | {column: "../secret.png"}
    csv.write_text("\n".join([text[0], ",".join(row.values()), *text[2:]]))
    with pytest.raises(ValueError, match=r"row 0: '.*secret\.png' leads out of the folder .*root="):
        load_cells(csv)
    assert len(load_cells(csv, root=tmp_path).paths) == 2


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/b", ".."])
def test_names_of_laboratories_cannot_lead_out(tmp_path, name):
    cells = Bunch(**CELLS | {"domain": np.array([name] * 2)})
    with pytest.raises(ValueError, match="expected folder names"):
        save_cells(cells, tmp_path / "cells")
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]


@pytest.mark.slow
def test_tokens_stay_out_of_messages_and_cards(tmp_path, in_subprocess, hub_server):
    hub_server.private["someone/something"] = "hf_another"
    code = """
import sys
from sam_bloodcell import SAMLoRAEmbedder
embedder = SAMLoRAEmbedder("vit_tiny").fit([__import__("numpy").zeros((8, 8), "uint8")])
folder = embedder.save_pretrained(sys.argv[1])
for path in folder.iterdir():
    print(path.read_bytes())
print(embedder.__getstate__(), repr(embedder))
for load in (SAMLoRAEmbedder.from_pretrained, lambda name: embedder.push_to_hub(name)):
    try:
        load("someone/something")
    except OSError as exc:
        print(exc)
"""
    said = in_subprocess(code, tmp_path / "adapter", HF_TOKEN="hf_verysecrettoken", HF_ENDPOINT=hub_server.url)
    assert "nor can it be fetched" in said
    assert "could not be pushed" in said
    assert "hf_verysecret" not in said


def test_a_written_adapter_names_no_folder_of_this_machine(tmp_path):
    folder = write_adapter(packaged_adapter("vit_tiny"), tmp_path / "adapter", Backbone("vit_tiny"))
    text = "".join(path.read_text() for path in Path(folder).glob("*.json"))
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
