"""Autoencoders that the papers' code saved: read, told apart, and computed to the published code's own numbers.

The numbers are those of the published code in float32, under weights that are a function of their names. They lie in
the shared folder `parity`; a few of each are in tests/golden/published_autoencoders.json.
"""

import json
import os
import zlib
from collections import OrderedDict
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch

from sam_bloodcell.exceptions import WeightsUnavailableError
from sam_bloodcell.models.losses import ssim
from sam_bloodcell.models.published import BCSAMAutoencoder, DoRLAutoencoder
from sam_bloodcell.published import read_published_autoencoder

STORED = Path(__file__).parents[1] / "golden" / "published_autoencoders.json"
TOLERANCE = 1e-4
WIDTH = 768
# Indices into the flat outputs that are stored here.
KEPT = 12


@pytest.fixture(scope="module")
def parity():
    """Return the folder of the published code's numbers, or skip."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    root = Path(os.environ.get("SAM_BLOODCELL_DATA", beside)).parent / "parity"
    if not (root / "autoencoders.npz").is_file():
        pytest.skip(f"no published numbers: '{root}/autoencoders.npz' does not exist")
    return root


def block_shapes(part, number, width):
    layers = {
        "norm1.weight": [width], "norm1.bias": [width], "attn.qkv.weight": [3 * width, width],
        "attn.proj.weight": [width, width], "attn.proj.bias": [width], "norm2.weight": [width], "norm2.bias": [width],
        "mlp.fc1.weight": [4 * width, width], "mlp.fc1.bias": [4 * width], "mlp.fc2.weight": [width, 4 * width],
        "mlp.fc2.bias": [width],
    }  # fmt: skip
    return {f"{part}.transformer.{number}.{name}": shape for name, shape in layers.items()}


def dorl_shapes(depth=(2, 2), width=WIDTH):
    shapes = {"encoder.cls_token": [1, 1, width], "encoder.pos_embedding": [196, 1, width]}
    for part, blocks in zip(("encoder", "decoder"), depth, strict=True):
        for number in range(blocks):
            shapes |= block_shapes(part, number, width)
    shapes |= {"encoder.layer_norm.weight": [width], "encoder.layer_norm.bias": [width]}
    shapes |= {"decoder.mask_token": [1, 1, width], "decoder.pos_embedding": [197, 1, width]}
    channels = (width, 512, 256, 128, 64, 3)
    for step, kernel in enumerate((4, 4, 4, 8, 8)):
        shapes[f"decoder.head.{2 * step}.weight"] = [channels[step], channels[step + 1], kernel, kernel]
        shapes[f"decoder.head.{2 * step}.bias"] = [channels[step + 1]]
    return shapes | {"decoder.Linear.weight": [50, width], "decoder.Linear.bias": [50]}


def bcsam_shapes(width=WIDTH):
    encoder = ([256, width, 1, 1], [256, 256, 3, 3], [50, 256, 1, 1])
    decoder = (
        [50, 150, 5, 5], [150, 200, 4, 4], [200, 256, 3, 3], [256, 200, 5, 5], [200, 180, 3, 3], [180, 150, 3, 3],
        [150, 128, 2, 2], [128, 3, 1, 1],
    )  # fmt: skip
    shapes = {}
    for part, kernels, axis in (("encoder", encoder, 0), ("decoder", decoder, 1)):
        for unit, kernel in enumerate(kernels):
            shapes |= {f"{part}.{3 * unit}.weight": kernel, f"{part}.{3 * unit}.bias": [kernel[axis]]}
            if kernel[axis] != 3:  # the last one has no BatchNorm
                for name in ("weight", "bias", "running_mean", "running_var"):
                    shapes[f"{part}.{3 * unit + 1}.{name}"] = [kernel[axis]]
    return shapes


def named_weights(shapes):
    """Weights that anybody can make from names and shapes."""
    state = {}
    for name, shape in shapes.items():
        value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        if name.endswith("running_var"):
            value = np.abs(value) * 0.2 + 0.8
        elif name.endswith("weight") and ("norm" in name or len(shape) == 1):
            value = 1 + 0.1 * value
        elif len(shape) == 1:
            value = 0.05 * value
        else:
            value = value / np.sqrt(max(1, prod(shape[1:])))
        state[name] = torch.from_numpy(value.astype(np.float32))
    return state


def seen_by_cell():
    """The tokens that the published pass saw, drawn here as there: (49, 3)."""
    return np.array(json.loads(STORED.read_text())["seen"])


def read(state, folder):
    torch.save(state, folder / "network.mdl")
    return read_published_autoencoder(folder / "network.mdl")


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """Return what our networks compute, under the keys of the published numbers."""
    folder = tmp_path_factory.mktemp("published")
    tokens = torch.from_numpy(np.random.default_rng(0).standard_normal((3, WIDTH, 14, 14)).astype(np.float32))
    hidden = torch.ones(3, 196, dtype=torch.bool).scatter(1, torch.from_numpy(seen_by_cell().T), False)
    dorl = read(named_weights(dorl_shapes()), folder)
    bcsam = read(named_weights(bcsam_shapes()), folder)
    image = np.random.default_rng(5).random((2, 3, 128, 128)).astype(np.float32)
    noise = np.random.default_rng(6).standard_normal(image.shape)
    noisy = np.clip(image + 0.1 * noise, 0, 1).astype(np.float32)
    with torch.inference_mode():
        found = {"dorl_cls": dorl.encode(tokens), "bcsam_features": bcsam.encode(tokens)}
        for way, made in {"full": dorl(tokens), "masked": dorl(tokens, hidden)}.items():
            found[f"dorl_{way}_tokens"] = made.embedding.flatten(2)[:, ::64, ::14]
            found[f"dorl_{way}_crop"] = made.crops[:, :, ::8, ::8]
            found[f"dorl_{way}_gap"] = made.features
        found["bcsam_crop"] = bcsam(tokens).crops[:, :, ::8, ::8]
        found["ssim"] = ssim(torch.from_numpy(image), torch.from_numpy(noisy), padded=True)[None]
    return {name: value.numpy() for name, value in found.items()}


def sample(values):
    """The few of an output's numbers that are stored, spread over all of it."""
    return values.ravel()[np.linspace(0, values.size - 1, min(KEPT, values.size)).astype(int)]


PARTS = (
    "dorl_cls", "dorl_full_tokens", "dorl_full_crop", "dorl_full_gap", "dorl_masked_tokens", "dorl_masked_crop",
    "dorl_masked_gap", "bcsam_features", "bcsam_crop", "ssim",
)  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_every_output_is_the_published_codes(part, computed, parity):
    published = np.load(parity / "autoencoders.npz")
    assert computed[part].shape == published[part].shape
    np.testing.assert_allclose(computed[part], published[part], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("part", PARTS)
def test_some_of_every_output_are_the_published_codes(part, computed):
    stored = json.loads(STORED.read_text())
    np.testing.assert_allclose(sample(computed[part]), stored[part], atol=TOLERANCE, rtol=0)


def test_the_names_and_stored_numbers_are_the_published_ones(parity):
    names = json.loads((parity / "autoencoder_names.json").read_text())
    assert names == {"dorl": dorl_shapes(), "bcsam": bcsam_shapes()}
    published, stored = np.load(parity / "autoencoders.npz"), json.loads(STORED.read_text())
    np.testing.assert_array_equal(seen_by_cell(), published["perm"][:49])
    for part in PARTS:
        np.testing.assert_allclose(stored[part], sample(published[part]), atol=1e-6)


# Files


@pytest.mark.parametrize("prefix", ["", "module.", "autoencoder.", "module.net."])
@pytest.mark.parametrize("depth", [(12, 4), (1, 3)])
def test_dorls_file_tells_its_depth(tmp_path, depth, prefix):
    state = named_weights(dorl_shapes(depth, width=16))
    network = read(OrderedDict((prefix + name, value) for name, value in state.items()), tmp_path)
    assert isinstance(network, DoRLAutoencoder)
    assert network.depth == depth
    assert not network.training
    assert network.encode(torch.randn(2, 16, 14, 14)).shape == (2, 16)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("counters", [True, False], ids=["counters", "no counters"])
def test_bcsams_file_may_have_what_torch_saves_beside_the_weights(tmp_path, prefix, counters):
    state = named_weights(bcsam_shapes(width=16))
    if counters:
        names = [name.replace("running_mean", "num_batches_tracked") for name in state if "running_mean" in name]
        state |= {name: torch.tensor(7) for name in names}
    network = read({prefix + name: value for name, value in state.items()}, tmp_path)
    assert isinstance(network, BCSAMAutoencoder)
    assert not network.training
    assert network.encode(torch.randn(2, 16, 14, 14)).shape == (2, 50)
    network.train()(torch.randn(2, 16, 14, 14)).crops.mean().backward()  # can be trained further


def test_a_checkpoint_beside_an_optimisers_state_is_read(tmp_path):
    state = named_weights(dorl_shapes((1, 1), width=16))
    assert read({"state_dict": state, "epoch": 3}, tmp_path).depth == (1, 1)


@pytest.mark.parametrize("shapes", [dorl_shapes((2, 1), 16), bcsam_shapes(16)], ids=["dorl", "bcsam"])
def test_a_file_that_is_not_whole_is_refused_by_name(tmp_path, shapes):
    state = named_weights(shapes)
    for name in ("decoder.0.weight", "encoder.transformer.1.norm2.bias"):
        if name in state:
            with pytest.raises(ValueError, match=rf"mdl' is not a complete autoencoder of .*\n  {name}: missing\nF"):
                read({key: value for key, value in state.items() if key != name}, tmp_path)
    with pytest.raises(ValueError, match=r"  head\.weight: unknown\nFix: pass the state dict"):
        read(state | {"head.weight": torch.ones(2)}, tmp_path)
    name = "decoder.head.4.weight" if "encoder.cls_token" in state else "decoder.9.bias"
    with pytest.raises(ValueError, match=rf"  {name}: \(3,\) instead of \("):
        read(state | {name: torch.ones(3)}, tmp_path)


def test_a_network_of_another_kind_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"neither 'encoder\.0\.weight' \(BC-SAM\) nor 'encoder\.cls_token' .* its 1 names\. Fix: "
    ):
        read({"w_a_000": torch.ones(4, 16)}, tmp_path)
    with pytest.raises(ValueError, match=r"is not a complete autoencoder of BC-SAM:(\n  .*){10}\n  and \d+ more\nFix"):
        read({"encoder.0.weight": torch.ones(4)}, tmp_path)
    with pytest.raises(ValueError, match=r"is not a complete autoencoder of DoRL:"):
        read({"encoder.cls_token": torch.tensor(1.0), "encoder.transformer.9999.norm1.bias": torch.ones(1)}, tmp_path)


def test_another_grid_than_14_by_14_is_refused(tmp_path):
    state = named_weights(dorl_shapes((1, 1), 16)) | {"encoder.pos_embedding": torch.ones(64, 1, 16)}
    with pytest.raises(ValueError, match=r"encoder\.pos_embedding: \(64, 1, 16\) instead of \(196, 1, 16\)"):
        read(state, tmp_path)


@pytest.mark.fault
def test_nothing_is_unpickled_but_tensors(tmp_path):
    path = tmp_path / "whole.mdl"
    torch.save(DoRLAutoencoder(8, depth=(1, 1)), path)
    with pytest.raises(WeightsUnavailableError, match=r"whole\.mdl' is not a readable weights file: besides"):
        read_published_autoencoder(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(WeightsUnavailableError, match=r"whole\.mdl' is not a readable weights file"):
        read_published_autoencoder(path)
    with pytest.raises(WeightsUnavailableError, match=r"absent\.mdl"):
        read_published_autoencoder(tmp_path / "absent.mdl")
