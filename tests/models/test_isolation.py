"""Whatever torch and numpy are set to, the numbers are the same, and the caller's settings stay."""

import contextlib
import pickle
import threading
import warnings

import numpy as np
import pytest
import sklearn
import torch

from sam_bloodcell import CrossDomainAutoencoder, LoRATraining, SAMLoRAEmbedder
from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.models.isolation import own_settings

# At 64 px, the network does not find every cell.
pytestmark = pytest.mark.filterwarnings("ignore:No plausible cell was found")


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def matmul_precision(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def warnings_as_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


WORLDS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "no-grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "matmul": lambda: matmul_precision("medium"),
    "deterministic": deterministic,
    "numpy": lambda: np.errstate(all="raise"),
    "warnings": warnings_as_errors,
}


def settings():
    grad = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
    device = torch.empty(0).device.type
    return torch.get_default_dtype(), device, *grad, torch.get_float32_matmul_precision(), np.geterr()


def align():
    """Fit, continue, pickle and transform."""
    X = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    domain = np.repeat(["a", "b"], 20)
    model = CrossDomainAutoencoder(3, epochs=2, device="cpu", random_state=0).fit(X, domain=domain)
    model = pickle.loads(pickle.dumps(model.partial_fit(X, domain=domain)))
    return np.hstack([model.transform(X, domain=domain), model.reconstruct(X, domain=domain)])


@pytest.fixture(scope="module")
def embed():
    cells = make_blood_cells(1, classes=["lymphocyte", "neutrophil"], image_size=48, random_state=0)

    def embed():
        """Load a network, fine-tune it, and embed; once more after pickling."""
        SAMLoRAEmbedder.free_network()
        training = LoRATraining(epochs=1, warmup_epochs=0, learning_rate=1e-3, validation_fraction=0, random_state=0)
        plain = SAMLoRAEmbedder("vit_tiny", image_size=64, dtype="float32", device="cpu", training=training)
        before = plain.fit_transform(cells.images)
        tuned = pickle.loads(pickle.dumps(plain.fit(cells.images, masks=cells.masks)))
        assert all(mask.any() for mask in tuned.predict_masks(cells.images))
        return np.hstack([before, tuned.transform(cells.images)])

    return embed


@pytest.fixture(scope="module")
def expected(embed):
    return {"align": align(), "embed": embed()}


@pytest.mark.parametrize("world", WORLDS)
def test_autoencoders_are_the_same_in_every_world(world, expected):
    with WORLDS[world]():
        before = settings()
        found = align()
        assert settings() == before
    np.testing.assert_array_equal(found, expected["align"])


@pytest.mark.parametrize("world", ["float64", "meta", "inference", "autocast", "numpy"])
def test_embeddings_and_fine_tuning_are_the_same_in_every_world(world, embed, expected, monkeypatch):
    with WORLDS[world]():
        before = settings()
        found = embed()
        assert settings() == before
    np.testing.assert_allclose(found, expected["embed"], atol=1e-5)


def test_a_network_loaded_in_inference_mode_can_be_trained_on(embed, expected):
    with torch.inference_mode():
        embed()
    np.testing.assert_allclose(embed(), expected["embed"], atol=1e-5)


def test_the_callers_random_numbers_stay(embed):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    embed()
    align()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_callers_settings_come_back_after_an_error():
    with default_dtype(torch.float64), torch.no_grad(), default_device("meta"):
        before = settings()
        with pytest.raises(ValueError, match="Got NaN"):
            CrossDomainAutoencoder(2).fit(np.full((4, 3), np.nan))
        assert settings() == before


def test_threads_share_one_world_and_the_last_one_restores_it():
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with own_settings():
            inside.set()
            leave.wait(10)

    with default_dtype(torch.float64):
        other = threading.Thread(target=stay)
        other.start()
        inside.wait(10)
        with own_settings():
            assert torch.get_default_dtype() == torch.float32
            leave.set()
            other.join()
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float64


@pytest.mark.newest
def test_scikit_learns_settings_change_no_number(expected):
    with sklearn.config_context(enable_metadata_routing=True, array_api_dispatch=True):
        np.testing.assert_array_equal(align(), expected["align"])


def test_precisions_that_are_set_for_each_backend_are_left_alone():
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with own_settings():
            assert torch.ones(2, 2) @ torch.ones(2, 2) is not None
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
