import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV

from sam_bloodcell.datasets import make_blood_cells
from sam_bloodcell.models.lora import apply_adapter
from sam_bloodcell.models.sam import SAM, SAM_MASK_TOKENS, SIZES, EncoderSize
from sam_bloodcell.segmentation import LoRATraining, finetuning
from sam_bloodcell.weights.backbones import Backbone, identify, load_sam

CPU = torch.device("cpu")
CELLS = make_blood_cells(2, domains=["lab_a"], image_size=64, random_state=0)
QUICK = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 4, "random_state": 0}


@pytest.fixture
def backbone(tmp_path, monkeypatch):
    """A plain SAM checkpoint (four mask tokens) of random weights, 32 wide with two blocks."""
    size = EncoderSize(32, 2, 2, (1,))
    monkeypatch.setitem(SIZES, "random", size)
    path = tmp_path / "sam.safetensors"
    save_file(SAM(size, 64, SAM_MASK_TOKENS).state_dict(), path)
    return identify(Backbone(str(path)))


@pytest.fixture
def run(backbone):
    """Return a runner of a training on the synthetic cells; keywords replace arguments of `LoRATraining.run`."""

    def go(training, images=CELLS.images, masks=CELLS.masks, **changes):
        settings = {"backbone": backbone, "start": None, "image_size": 64, "pixel_stats": None, "device": CPU}
        return training.run(images, masks, **settings | changes)

    return go


def _assert_equal(a, b):
    pd.testing.assert_frame_equal(a.history, b.history, check_exact=True)
    for kind in ("lora", "decoder"):
        for key, value in getattr(a.adapter, kind).items():
            assert torch.equal(getattr(b.adapter, kind)[key], value), key


class TestParameters:
    def test_they_are_only_stored(self):
        blocks = [0, 3]
        training = LoRATraining(blocks=blocks, rank=-1)
        assert training.blocks is blocks
        assert training.get_params() == LoRATraining().get_params() | {"blocks": blocks, "rank": -1}
        assert training.set_params(rank=8).rank == 8
        assert repr(training) == "LoRATraining(blocks=[0, 3], rank=8)"
        assert clone(training).get_params() == training.get_params()

    def test_a_pickle_holds_plain_values(self, tmp_path):
        training = LoRATraining(rank=2, checkpoint=tmp_path / "run.ckpt")
        again = pickle.loads(pickle.dumps(training))
        assert again.get_params() == training.get_params() | {"checkpoint": str(tmp_path / "run.ckpt")}
        assert training.checkpoint == tmp_path / "run.ckpt"

    def test_a_search_reaches_them_inside_an_estimator(self):
        class Learner(BaseEstimator):
            def __init__(self, training=None):
                self.training = training

            def fit(self, X, y=None):
                return self

            def score(self, X, y=None):
                return self.training.epochs

        search = GridSearchCV(Learner(LoRATraining()), {"training__epochs": [1, 3, 2], "training__rank": [2]}, cv=2)
        assert search.fit(np.zeros((4, 1))).best_params_ == {"training__epochs": 3, "training__rank": 2}

    @pytest.mark.bad_argument
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("rank", 0), ("rank", 1.5), ("alpha", 0), ("dropout", 1), ("dropout", -0.1), ("blocks", 3),
            ("blocks", "all"), ("epochs", 0), ("warmup_epochs", -1), ("learning_rate", 0), ("weight_decay", -1),
            ("batch_size", 0), ("batch_size", "auto"), ("validation_fraction", 1), ("validation_fraction", -0.1),
            ("patience", 0), ("checkpoint", 3), ("random_state", -1), ("random_state", "x"),
        ],
    )  # fmt: skip
    def test_a_bad_one_is_named(self, run, name, value):
        with pytest.raises(ValueError, match=f"The '{name}' parameter of LoRATraining must be"):
            run(LoRATraining(**{name: value}))

    def test_each_has_a_constraint(self):
        assert set(LoRATraining().get_params()) == set(LoRATraining._parameter_constraints)

    @pytest.mark.parametrize(("blocks", "reason"), [([], "at least one block"), ([0, 2], "Got 2 among blocks")])
    def test_blocks_that_the_encoder_lacks_are_named(self, run, blocks, reason):
        with pytest.raises(ValueError, match=rf"{reason}.*Fix: "):
            run(LoRATraining(blocks=blocks))


class TestRun:
    def test_the_adapter_and_its_history(self, run):
        trained = run(LoRATraining(rank=2, blocks=[1], **QUICK))
        assert list(trained.history) == ["epoch", "learning_rate", "loss", "dice_loss", "cross_entropy", "dice"]
        assert trained.history["epoch"].tolist() == [0, 1]
        assert trained.history["dice"].between(0, 1).all()
        assert {key.split(".blocks.")[1].split(".")[0] for key in trained.adapter.lora} == {"1"}
        assert trained.adapter.lora_config["r"] == 2
        assert trained.adapter.image_size == 64
        np.testing.assert_allclose(trained.adapter.pixel_stats[0], CELLS.images.mean((0, 1, 2)), rtol=1e-6)

    @pytest.mark.slow
    def test_it_learns_to_segment(self, run):
        history = run(LoRATraining(**QUICK | {"epochs": 12})).history
        assert history["loss"].iloc[-1] < 0.8 * history["loss"].iloc[0]

    def test_it_stops_early_and_keeps_the_best_epoch(self, run):
        training = LoRATraining(**QUICK | {"epochs": 20, "learning_rate": 0.1}, patience=2, validation_fraction=0.4)
        trained = run(training)
        assert trained.best_epoch == trained.history["dice"].argmax()
        assert len(trained.history) == min(20, trained.best_epoch + 3)

    def test_without_validation_the_last_epoch_is_kept(self, run):
        trained = run(LoRATraining(**QUICK, validation_fraction=0), CELLS.images[:1], CELLS.masks[:1])
        assert "dice" not in trained.history
        assert trained.best_epoch == 1

    def test_too_few_cells_to_validate_on_name_the_parameter(self, run):
        with pytest.raises(ValueError, match=r"Got 1 image with masks but validation_fraction=0\.1 sets 1 aside"):
            run(LoRATraining(), CELLS.images[:1], CELLS.masks[:1])

    def test_random_state_decides_and_the_callers_random_numbers_stay(self, run):
        before = torch.get_rng_state()
        first, again = (run(LoRATraining(**QUICK, dropout=0.1)) for _ in range(2))
        _assert_equal(first, again)
        assert torch.equal(torch.get_rng_state(), before)
        other = run(LoRATraining(**QUICK | {"random_state": 1}, dropout=0.1))
        assert first.history["loss"].tolist() != other.history["loss"].tolist()

    def test_it_goes_on_from_an_adapter(self, run):
        start = replace(run(LoRATraining(**QUICK)).adapter, pixel_stats=((200.0,) * 3, (40.0,) * 3))
        slow = QUICK | {"epochs": 1, "learning_rate": 1e-5}
        trained = run(LoRATraining(**slow), start=start).adapter
        assert trained.pixel_stats == start.pixel_stats
        assert all(0 < (trained.lora[key] - start.lora[key]).abs().max() < 1e-3 for key in start.lora)
        with pytest.warns(UserWarning, match=r"start fresh: .* rank 4 in blocks \[0, 1\], .* rank 3 in blocks .* Fix:"):
            assert run(LoRATraining(**slow, rank=3), start=start).adapter.lora_config["r"] == 3
        given = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
        assert run(LoRATraining(**slow), start=start, pixel_stats=given).adapter.pixel_stats == given

    @pytest.mark.filterwarnings("ignore:backbone=.* is Cellpose-SAM")
    def test_cellpose_sam_gets_a_decoder_that_learns_to_segment(self, run, tmp_path):
        encoder = SAM(EncoderSize(32, 2, 2, (0, 1), patch=8), 256).image_encoder.state_dict()
        state = {f"encoder.{key}": value for key, value in encoder.items()}
        torch.save(state | dict.fromkeys(("out.weight", "out.bias", "W2"), torch.ones(1)), tmp_path / "cpsam")
        cellpose = identify(Backbone(str(tmp_path / "cpsam")))
        trained = run(LoRATraining(**QUICK | {"epochs": 8}), backbone=cellpose)
        assert trained.history["loss"].iloc[-1] < 0.9 * trained.history["loss"].iloc[0]
        sam = load_sam(cellpose, 64, two_masks=True)
        apply_adapter(sam, trained.adapter)
        assert sam(torch.zeros(1, 3, 64, 64)).shape == (1, 2, 32, 32)

    def test_masks_from_the_stain(self, run):
        blank = np.full((1, 64, 64, 3), 230, np.uint8)
        with pytest.warns(UserWarning, match=r"masks='auto' found no plausible cell in 1 of \d+ images"):
            trained = run(LoRATraining(**QUICK), np.concatenate([CELLS.images, blank]), "auto")
        assert len(trained.history) == 2

    @pytest.mark.parametrize(
        ("masks", "message"),
        [
            ("automatic", "Got one image as masks but expected a collection"),
            (CELLS.masks[:9], "Got 9 masks for 10 images"),
            ([*CELLS.masks[:9], None], "Got no mask in rows 9"),
            (CELLS.masks[:, :50], r"Row 0: the mask is \(50, 64\) px"),
        ],
    )
    def test_masks_that_do_not_fit_are_named(self, run, masks, message):
        with pytest.raises(ValueError, match=message):
            run(LoRATraining(**QUICK), masks=masks)


@pytest.mark.cuda
def test_a_gpu_learns_what_the_cpu_learns(run, gpu):
    training = LoRATraining(**QUICK | {"epochs": 1})
    on_cpu, on_gpu = run(training), run(training, device=torch.device(gpu))
    losses = ["loss", "dice_loss", "cross_entropy"]
    np.testing.assert_allclose(on_gpu.history[losses], on_cpu.history[losses], rtol=0.1)
    np.testing.assert_allclose(on_gpu.history["dice"], on_cpu.history["dice"], atol=0.2)  # of two cells
    held = [*on_gpu.adapter.lora.values(), *on_gpu.adapter.decoder.values()]
    assert {tensor.device.type for tensor in held} == {"cpu"}


class TestCheckpoint:
    @pytest.mark.slow
    def test_an_interrupted_training_resumes_to_the_same_bits(self, run, tmp_path, monkeypatch):
        settings = QUICK | {"epochs": 4, "dropout": 0.1, "validation_fraction": 0.3}
        unbroken = run(LoRATraining(**settings))
        training, augment, calls = LoRATraining(**settings, checkpoint=tmp_path / "run.ckpt"), finetuning.augment, []

        def fail_in_the_third_epoch(*args):
            calls.append(args)
            if len(calls) > 4:  # two steps in each epoch
                raise RuntimeError("no power")
            return augment(*args)

        with monkeypatch.context() as patch:
            patch.setattr(finetuning, "augment", fail_in_the_third_epoch)
            with pytest.raises(RuntimeError, match="no power"):
                run(training)
        assert len(torch.load(tmp_path / "run.ckpt", weights_only=True)["history"]) == 2
        _assert_equal(run(training), unbroken)

    @pytest.mark.parametrize("random_state", [None, np.random.RandomState(0)])
    def test_it_needs_an_int_random_state(self, run, tmp_path, random_state):
        training = LoRATraining(checkpoint=tmp_path / "run.ckpt", random_state=random_state)
        with pytest.raises(ValueError, match=r"Got random_state=.* with a checkpoint but expected an int.* Fix: rand"):
            run(training)

    @pytest.mark.slow
    def test_another_training_is_refused(self, run, backbone, tmp_path):
        checkpoint = tmp_path / "run.ckpt"
        training = LoRATraining(**QUICK, checkpoint=checkpoint)
        first = run(training)
        moved = tmp_path / "moved.ckpt"
        moved.write_bytes(checkpoint.read_bytes())
        _assert_equal(run(clone(training).set_params(checkpoint=moved)), first)  # where it lies does not count

        def refused(training=training, *args, **changes):
            with pytest.raises(ValueError, match=r"belongs to a training with other data or settings.* Fix: delete it"):
                run(training, *args, **changes)

        for name, value in {"rank": 2, "epochs": 3, "learning_rate": 1e-3, "patience": None, "random_state": 1}.items():
            refused(clone(training).set_params(**{name: value}))
        refused(training, CELLS.images[:8], CELLS.masks[:8])
        refused(training, masks="auto")
        refused(start=first.adapter, pixel_stats=first.adapter.pixel_stats)
        refused(pixel_stats=((1.0,) * 3, (2.0,) * 3))
        refused(image_size=32)
        refused(backbone=replace(backbone, digest=None))
