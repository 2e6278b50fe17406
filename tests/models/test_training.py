import errno
import math
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from sam_bloodcell.models import training
from sam_bloodcell.models.training import TrainingPlan, Validation, best_epoch, trained_state

PLAN = TrainingPlan(epochs=4, steps_per_epoch=5, learning_rate=0.05, warmup_steps=2, weight_decay=0.01)


def train(*args, **settings):
    return pd.DataFrame(training.train(*args, **settings))


def _network():
    torch.manual_seed(1)
    # dropout makes a resumed run depend on the state of the random numbers too
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))


def _batches(epoch):
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(5):
        x = torch.randn(16, 3, generator=generator)
        yield x, x.sum(1, keepdim=True)


def _loss(module, batch):
    x, y = batch
    error = module(x) - y
    return {"loss": error.square().mean(), "absolute": error.abs().mean()}


class _KilledError(Exception):
    """Stands for any death that is not Ctrl-C."""


def _killed_at_epoch_2(epoch):
    if epoch == 2:
        raise _KilledError
    return _batches(epoch)


def _interrupted_in_epoch(index):
    """Batches that press Ctrl-C after the third step of an epoch."""

    def batches(epoch):
        for step, batch in enumerate(_batches(epoch)):
            if (epoch, step) == (index, 3):
                raise KeyboardInterrupt
            yield batch

    return batches


class _Scripted:
    """A validation whose Dice is written beforehand; remembers the weights that it saw."""

    def __init__(self, *dice):
        self.dice, self.seen = dice, []

    def __call__(self, module):
        assert not module.training
        self.seen.append(trained_state(module))
        return {"dice": self.dice[len(self.seen) - 1]}


def _assert_same(module, other):
    for key, value in module.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, rtol=0, atol=0)


def test_the_loss_goes_down_and_the_history_tells():
    network = _network()
    plan = TrainingPlan(epochs=20, steps_per_epoch=5, learning_rate=0.05, warmup_steps=2)
    history = train(network, _loss, _batches, plan)
    assert list(history.columns) == ["epoch", "learning_rate", "loss", "absolute"]
    assert history["epoch"].tolist() == list(range(20))
    assert history["loss"].iloc[-1] < 0.3 * history["loss"].iloc[0]
    assert history["learning_rate"].tolist() == pytest.approx([0.05 * plan.rate_at(5 * e) for e in range(20)])
    assert not network.training


@pytest.mark.fault
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path):
    unbroken = _network()
    expected = train(unbroken, _loss, _batches, PLAN)
    checkpoint = tmp_path / "run.ckpt"
    with pytest.raises(_KilledError):
        train(_network(), _loss, _killed_at_epoch_2, PLAN, checkpoint=checkpoint)
    torch.manual_seed(99)
    resumed = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))
    seen = []
    history = train(resumed, _loss, lambda epoch: seen.append(epoch) or _batches(epoch), PLAN, checkpoint=checkpoint)
    assert seen == [2, 3]
    _assert_same(unbroken, resumed)
    pd.testing.assert_frame_equal(history, expected, check_exact=True)


def test_a_finished_checkpoint_trains_no_more(tmp_path):
    network = _network()
    expected = train(network, _loss, _batches, PLAN, checkpoint=tmp_path / "run.ckpt")
    again = _network()
    history = train(again, _loss, lambda epoch: pytest.fail("trained"), PLAN, checkpoint=tmp_path / "run.ckpt")
    pd.testing.assert_frame_equal(history, expected, check_exact=True)
    _assert_same(network, again)


@pytest.mark.fault
def test_a_write_that_dies_halfway_leaves_the_last_whole_checkpoint(tmp_path, monkeypatch):
    checkpoint = tmp_path / "run.ckpt"
    with pytest.raises(_KilledError):
        train(_network(), _loss, _killed_at_epoch_2, PLAN, checkpoint=checkpoint)
    whole = checkpoint.read_bytes()

    def dies_halfway(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", dies_halfway)
        with pytest.raises(
            OSError, match=r"No space left on device, so it was not written\. Fix: free space there.*run\.ckpt"
        ):
            train(_network(), _loss, _batches, PLAN, checkpoint=checkpoint)
    assert checkpoint.read_bytes() == whole
    unbroken, resumed = _network(), _network()
    train(resumed, _loss, _batches, PLAN, checkpoint=checkpoint)
    torch.manual_seed(1)
    unbroken = _network()
    train(unbroken, _loss, _batches, PLAN)
    _assert_same(unbroken, resumed)
    assert [path.name for path in tmp_path.iterdir()] == ["run.ckpt"]


def test_the_rate_warms_up_then_follows_a_cosine_to_zero():
    plan = TrainingPlan(epochs=10, steps_per_epoch=10, learning_rate=1, warmup_steps=5)
    assert [plan.rate_at(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert plan.rate_at(5 + 95 // 2) == pytest.approx(0.5 * (1 + math.cos(math.pi * 47 / 95)))
    assert plan.rate_at(100) == pytest.approx(0)


def test_a_long_warm_up_is_cut_to_a_tenth():
    plan = TrainingPlan(epochs=10, steps_per_epoch=10, learning_rate=1, warmup_steps=500)
    assert plan.rate_at(8) == pytest.approx(0.9)
    assert plan.rate_at(9) == plan.rate_at(10) == 1


def test_the_papers_warm_up_is_never_cut_and_their_cosine_ends_above_zero():
    plan = TrainingPlan(epochs=10, steps_per_epoch=10, learning_rate=1, warmup_steps=40, published_schedule=True)
    assert plan.rate_at(0) == pytest.approx(1 / 40)
    assert plan.rate_at(39) == plan.rate_at(40) == 1
    # a cosine over all 100 steps, begun at the end of the warm-up
    assert plan.rate_at(99) == pytest.approx(0.5 * (1 + math.cos(math.pi * 59 / 100)))
    long = TrainingPlan(epochs=1, steps_per_epoch=10, learning_rate=1, warmup_steps=500, published_schedule=True)
    assert long.rate_at(9) == pytest.approx(10 / 500)


@pytest.mark.parametrize(("clip_norm", "moved"), [(1.0, 1.0), (None, 100.0)])
def test_gradients_are_clipped_unless_told_not_to(clip_norm, moved, monkeypatch):
    network = nn.Linear(1, 1, bias=False)
    norms = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: (norms.append(network.weight.grad.norm().item()), step(self, *a))
    )
    plan = TrainingPlan(epochs=1, steps_per_epoch=1, learning_rate=0.1, clip_norm=clip_norm)
    train(network, lambda module, _: {"loss": 100 * module.weight.sum()}, lambda _: [0], plan)
    assert norms == pytest.approx([moved], rel=1e-4)


def test_frozen_parameters_stay_and_the_others_move():
    network = _network()
    network[0].requires_grad_(False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    train(network, _loss, _batches, PLAN)
    after = network.state_dict()
    for key in ("0.weight", "0.bias"):
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0)
    for key in ("3.weight", "3.bias"):
        assert (after[key] != before[key]).any()


def test_weight_decay_spares_biases():
    network = nn.Linear(2, 2)
    nn.init.ones_(network.weight)
    nn.init.ones_(network.bias)
    plan = TrainingPlan(epochs=1, steps_per_epoch=1, learning_rate=0.1, weight_decay=0.5)
    train(network, lambda module, _: {"loss": 0 * sum(p.sum() for p in module.parameters())}, lambda _: [0], plan)
    assert network.weight.flatten().tolist() == pytest.approx([0.95] * 4)
    assert network.bias.tolist() == [1, 1]


def test_weight_decay_of_everything_spares_nothing_but_what_is_frozen():
    network = nn.Linear(2, 2)
    nn.init.ones_(network.weight).requires_grad_(False)
    nn.init.ones_(network.bias)
    plan = TrainingPlan(epochs=1, steps_per_epoch=1, learning_rate=0.1, weight_decay=0.5, decay_everything=True)
    train(network, lambda module, _: {"loss": 0 * module.bias.sum()}, lambda _: [0], plan)
    assert network.bias.tolist() == pytest.approx([0.95] * 2)
    assert network.weight.flatten().tolist() == [1] * 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step(value):
    network = _network()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}

    def loss(module, batch):
        terms = _loss(module, batch)
        return terms | {"loss": terms["loss"] * value}

    message = re.escape("The loss is not finite: {'loss': ") + ".*Fix: lower the learning rate"
    with pytest.raises(FloatingPointError, match=message):
        train(network, loss, _batches, PLAN)
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=0)


@pytest.mark.fault
def test_ctrl_c_keeps_the_last_full_epoch(tmp_path):
    checkpoint = tmp_path / "run.ckpt"
    network = _network()
    with pytest.warns(UserWarning, match="Interrupted: keeping the weights after 2 of 4 epochs"):
        history = train(network, _loss, _interrupted_in_epoch(2), PLAN, checkpoint=checkpoint)
    assert history["epoch"].tolist() == [0, 1]
    expected = _network()
    with pytest.raises(_KilledError):
        train(expected, _loss, _killed_at_epoch_2, PLAN)
    _assert_same(expected, network)
    assert not network.training

    train(network, _loss, _batches, PLAN, checkpoint=checkpoint)
    unbroken = _network()
    train(unbroken, _loss, _batches, PLAN)
    _assert_same(unbroken, network)


@pytest.mark.fault
def test_ctrl_c_in_the_first_epoch_interrupts():
    with pytest.raises(KeyboardInterrupt):
        train(_network(), _loss, _interrupted_in_epoch(0), PLAN)


def test_the_best_epochs_weights_are_kept():
    network, score = _network(), _Scripted(0.2, 0.9, 0.9, 0.3)
    history = train(network, _loss, _batches, PLAN, validation=Validation(score, "dice"))
    assert history["dice"].tolist() == [0.2, 0.9, 0.9, 0.3]
    for key, value in score.seen[1].items():
        torch.testing.assert_close(network.state_dict()[key], value, rtol=0, atol=0)


def test_training_stops_when_patience_is_out():
    score = _Scripted(0.5, 0.4, math.nan, 0.9)
    history = train(_network(), _loss, _batches, PLAN, validation=Validation(score, "dice", patience=2))
    assert len(history) == 3


def test_a_resumed_run_remembers_its_best_epoch(tmp_path):
    dice = (0.9, 0.1, 0.2, 0.3)
    unbroken, resumed = _network(), _network()
    train(unbroken, _loss, _batches, PLAN, validation=Validation(_Scripted(*dice), "dice"))
    torch.manual_seed(1)
    checkpoint = tmp_path / "run.ckpt"
    validation = Validation(_Scripted(*dice), "dice")
    with pytest.raises(_KilledError):
        train(_network(), _loss, _killed_at_epoch_2, PLAN, validation=validation, checkpoint=checkpoint)
    validation = Validation(_Scripted(*dice[2:]), "dice")
    history = train(resumed, _loss, _batches, PLAN, validation=validation, checkpoint=checkpoint)
    assert history["dice"].tolist() == list(dice)
    _assert_same(unbroken, resumed)


def test_another_runs_checkpoint_is_refused(tmp_path):
    checkpoint = tmp_path / "run.ckpt"
    train(_network(), _loss, _batches, PLAN, checkpoint=checkpoint, fingerprint="one")
    with pytest.raises(ValueError, match=r"belongs to a training with other data or settings\. Fix: delete it"):
        train(_network(), _loss, _batches, PLAN, checkpoint=checkpoint, fingerprint="other")


def test_a_checkpoint_leaves_out_what_is_frozen(tmp_path):
    network = _network()
    network[0].requires_grad_(False)
    train(network, _loss, _batches, PLAN, checkpoint=tmp_path / "run.ckpt")
    state = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert set(state["trained"]) == {"3.weight", "3.bias"}


def test_best_epoch_is_the_first_highest_and_never_nan():
    assert best_epoch([0.1, 0.5, 0.5, 0.2]) == 1
    assert best_epoch([math.nan, 0.0]) == 1
    assert best_epoch([math.nan, math.nan]) == 0


@pytest.mark.parametrize("part", ["trained", "optimizer", "history", "rng"])
def test_an_incomplete_checkpoint_is_refused(part, tmp_path):
    path = tmp_path / "run.ckpt"
    module = torch.nn.Linear(2, 1)
    plan = TrainingPlan(epochs=1, steps_per_epoch=1, learning_rate=0.1)

    def run():
        train(module, lambda m, x: {"loss": m(x).sum()}, lambda _: [torch.ones(1, 2)], plan, checkpoint=path)

    run()
    state = torch.load(path, weights_only=True)
    torch.save({key: value for key, value in state.items() if key != part}, path)
    with pytest.raises(
        ValueError, match=r"run\.ckpt' is incomplete or of another version: .*Fix: delete it to start again"
    ):
        run()
    torch.save(state | {"trained": {"weight": state["trained"]["weight"]}}, path)
    with pytest.raises(ValueError, match="its weights are not those of this network"):
        run()
