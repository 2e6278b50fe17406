"""Cellpose-SAM in both embedders: with masks of another network, and with a decoder that was trained."""

import numpy as np
import pytest
import torch
from tests.weights import cellpose_tokens

from sam_bloodcell import LoRATraining, SAMLoRAEmbedder, ViTEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.models.sam import SAM_PIXEL_STATS, normalise
from sam_bloodcell.weights.vits import load_vit

pytestmark = pytest.mark.filterwarnings("ignore:backbone=.* is Cellpose-SAM", "ignore:No plausible cell")

CELLS = make_blood_cells(1, domains=["lab_a"], random_state=0)


def embedder(file, **params):
    return ViTEmbedder(file, dtype="float32", **params)


@torch.no_grad()
def test_its_tokens_are_pooled_over_the_masks_of_the_segmenter(cellpose_file):
    fitted = embedder(cellpose_file, keep=("tokens",)).fit(CELLS.images)
    found = fitted.transform(CELLS.images)
    assert (found.shape, found.tokens[0].shape) == ((5, 32), (32, 32, 32))
    assert (fitted.image_size_, fitted.n_features_out_) == (256, 32)
    packaged = SAMLoRAEmbedder("vit_tiny", dtype="float32").fit_transform(CELLS.images)
    assert all(np.array_equal(*pair) for pair in zip(found.masks, packaged.masks, strict=True))
    picture = cellpose_tokens.image().numpy()
    tokens = embedder(cellpose_file, keep=("tokens",)).fit_transform([picture]).tokens[0]
    expected = load_vit(fitted.backbone_)(normalise(torch.from_numpy(picture)[None], SAM_PIXEL_STATS)).patches[0]
    np.testing.assert_allclose(tokens, expected, atol=5e-3)  # they are kept as float16


@pytest.mark.parametrize("pooling", ["cls", "both"])
def test_it_has_no_cls_token(pooling, cellpose_file):
    with pytest.raises(ValueError, match=rf"Got pooling='{pooling}' but .* has no CLS token\. Fix: pooling='mask'"):
        embedder(cellpose_file, pooling=pooling).fit(CELLS.images)


def test_it_takes_no_other_image_size(cellpose_file):
    with pytest.raises(ValueError, match=r"Got image_size=224 but .* accepts only images of 256 px. Fix: image_"):
        embedder(cellpose_file, image_size=224).fit(CELLS.images)


def test_pixel_statistics_change_nothing(cellpose_file):
    plain = embedder(cellpose_file).fit_transform(CELLS.images)
    other = embedder(cellpose_file, pixel_stats=((215, 188, 200), (41, 57, 22))).fit_transform(CELLS.images)
    np.testing.assert_allclose(other, plain, atol=1e-4)


def test_it_is_saved_and_loaded(cellpose_file, tmp_path):
    fitted = ViTEmbedder(cellpose_file).fit(CELLS.images)
    again = ViTEmbedder.from_pretrained(fitted.save_pretrained(tmp_path / "saved"))
    np.testing.assert_array_equal(again.transform(CELLS.images), fitted.transform(CELLS.images))
    assert "CC BY-NC" in (tmp_path / "saved" / "README.md").read_text()


def test_with_masks_it_is_fine_tuned_and_finds_the_cell_itself(cellpose_file, tmp_path):
    training = LoRATraining(epochs=1, random_state=0)
    tuned = SAMLoRAEmbedder(cellpose_file, image_size=64, training=training).fit(CELLS.images, masks=CELLS.masks)
    found = tuned.transform(CELLS.images)
    assert (found.shape, tuned.prompt_) == ((5, 32), "none")
    again = SAMLoRAEmbedder.from_pretrained(tuned.save_pretrained(tmp_path / "saved"))
    np.testing.assert_array_equal(again.transform(CELLS.images), found)
    assert "CC BY-NC" in (tmp_path / "saved" / "README.md").read_text()


def test_without_masks_the_embedder_of_sam_points_to_the_other_one(cellpose_file):
    with pytest.raises(ValueError, match=r"has no mask decoder.*Fix: ViTEmbedder\("):
        SAMLoRAEmbedder(cellpose_file).fit(CELLS.images)
