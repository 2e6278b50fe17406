"""`FunctionEmbedder`: any function from crops to vectors."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from sam_bloodcell import CellClassifier, FunctionEmbedder, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.images.frames import load_square
from sam_bloodcell.segmentation.cell import GREY, cell_crop


@pytest.fixture(scope="module")
def cells():
    return make_blood_cells(1, random_state=0)


class Seen:
    """A function that notes what it is given."""

    def __init__(self):
        self.crops = []

    def __call__(self, crops):
        self.crops.append(crops.copy())
        vectors = crops.mean(axis=(1, 2))
        crops[:] = 0  # a function may write into its crops
        return vectors

    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("size", [224, 96])
def test_the_function_gets_the_cells_and_its_vectors_are_the_embeddings(cells, background, size):
    seen = Seen()
    embedder = FunctionEmbedder(seen, "mean-1", image_size=size, background=background, keep=("crops",))
    found = embedder.fit_transform(cells.images)
    plain = SAMLoRAEmbedder("vit_tiny", keep=("crops",)).fit_transform(cells.images)
    np.testing.assert_array_equal(found.masks, plain.masks)
    np.testing.assert_array_equal(found.crops, plain.crops)
    pixels = [load_square(image, 224) for image in cells.images]
    alone = [cell_crop(image, mask, size) for image, mask in zip(pixels, np.asarray(plain.masks), strict=True)]
    expected = np.stack([load_square(image, size) for image in cells.images] if background else alone)
    given = np.concatenate(seen.crops)[-10:]
    np.testing.assert_array_equal(given, expected)
    np.testing.assert_allclose(found.pooled, expected.mean(axis=(1, 2)), rtol=1e-5)
    if not background:
        assert (given[:, 0, 0] == GREY).all()


def test_the_name_is_the_functions_key_in_the_cache(cells, tmp_path):
    seen = Seen()
    embedder = FunctionEmbedder(seen, "mean-1", cache_dir=tmp_path).fit(cells.images)
    embedder.transform(cells.images)
    calls = len(seen.crops)
    again = embedder.transform(cells.images)
    assert len(seen.crops) == calls
    np.testing.assert_array_equal(clone(embedder).fit(cells.images).transform(cells.images).pooled, again.pooled)
    calls = len(seen.crops)
    embedder.set_params(name="mean-2").fit(cells.images).transform(cells.images)
    assert len(seen.crops) > calls


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda crops: crops.mean(axis=(1, 2, 3)), r"Got an array of shape \(2,\) from the function 'f' but expected"),
        (
            lambda crops: np.zeros((3, 4)),
            r"Got an array of shape \(3, 4\) .* expected \(2, d\)\. Fix: return one vector",
        ),
    ],
)
def test_vectors_of_another_shape_are_refused(cells, function, said):
    with pytest.raises(ValueError, match=said):
        FunctionEmbedder(function, "f").fit(cells.images)


def test_vectors_that_change_their_length_are_refused(cells):
    embedder = FunctionEmbedder(lambda crops: np.zeros((len(crops), 3 if (crops == GREY).all() else 4)), "f")
    with pytest.raises(ValueError, match=r"expected \(10, 3\)\. Fix: .* always of the same length"):
        embedder.set_params(batch_size=10).fit_transform(cells.images)


def test_what_a_function_cannot_do_is_refused(cells, tmp_path):
    with pytest.raises(ValueError, match=r"Got keep with 'tokens' but a function gives no token maps\. Fix:"):
        FunctionEmbedder(Seen(), "f", keep=("tokens",)).fit(cells.images)
    with pytest.raises(ValueError, match="FunctionEmbedder is not fine-tuned"):
        FunctionEmbedder(Seen(), "f").fit(cells.images, masks=cells.masks)
    with pytest.raises(TypeError, match=r"A FunctionEmbedder cannot be saved.*Fix: make it anew"):
        FunctionEmbedder(Seen(), "f").fit(cells.images).save_pretrained(tmp_path)


def test_unreadable_images_are_rows_of_nan(cells):
    embedder = FunctionEmbedder(Seen(), "f", on_error="nan")
    with pytest.warns(UserWarning, match="1 of 2 images cannot be read"):
        found = embedder.fit_transform([cells.images[0], "gone.png"])
    assert np.isnan(found.pooled).all(1).tolist() == [False, True]


def test_a_local_function_goes_to_other_processes(cells):
    embedder = FunctionEmbedder(lambda crops: crops.mean(axis=(1, 2)), "mean-1", batch_size=4, n_jobs=2)
    alone = FunctionEmbedder(Seen(), "mean-2", batch_size=4).fit_transform(cells.images)
    np.testing.assert_allclose(embedder.fit_transform(cells.images).pooled, alone.pooled, rtol=1e-3)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda crops: np.full((len(crops), 3), np.nan), "expected finite numbers"),
        (lambda crops: np.zeros((len(crops), 0)), "expected finite numbers"),
        (lambda crops: [["a"]] * len(crops), "which is not an array of numbers"),
        (lambda crops: torch.ones(len(crops), 2, requires_grad=True), r"\.detach\(\)\.float\(\)"),
    ],
)
def test_answers_that_are_no_vectors_are_refused(answer, said):
    with pytest.raises(ValueError, match=said):
        FunctionEmbedder(answer, name="wrong").fit(np.zeros((1, 32, 32, 3), np.uint8))


def test_vectors_of_another_length_are_not_taken_for_those_of_the_same_name():
    images = make_blood_cells(1, domains=["lab_a"], random_state=0).images
    long = FunctionEmbedder(lambda crops: crops.mean((1, 2)), name="one name").fit_transform(images)
    short = FunctionEmbedder(lambda crops: crops.mean((1, 2))[:, :2], name="one name").fit_transform(images)
    assert (long.shape[1], short.shape[1]) == (3, 2)


def test_a_function_of_this_session_alone_is_not_saved(tmp_path):
    cells = make_blood_cells(6, classes=["lymphocyte", "monocyte"], random_state=0)
    frame = pd.DataFrame({"path": list(cells.images), "domain": cells.domain})
    classifier = CellClassifier(embedder=FunctionEmbedder(lambda x: x.mean((1, 2)), "means"), verbose=0)
    classifier.fit(frame, np.array(cells.target_names)[cells.target])
    with pytest.raises(TypeError, match="which only this session has"):
        classifier.save_pretrained(tmp_path / "model")
