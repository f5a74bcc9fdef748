"""The steps of a training and what a checkpoint brings back, batches, parameter groups, and how long it takes."""

import argparse
import time

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from data.errors import UserError
from harness import training
from harness.device import Stopwatch
from harness.records import Run
from models import FourierReparamLinear, build_inr

CPU = torch.device("cpu")


class Training:
    """A small training with all that a checkpoint has to keep: weights, Adam, a rate that falls, random numbers."""

    def __init__(self, path, steps=50, checkpoint_every=1000):
        torch.manual_seed(3)
        self.run = Run(path, "1d", "function", "relu", 3, {"steps": steps})
        self.args = argparse.Namespace(checkpoint_every=checkpoint_every)
        self.model = torch.nn.Linear(3, 1)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1, fused=True)
        self.scheduler = lr_scheduler.MultiStepLR(self.optimizer, [20, 40], gamma=0.1)
        self.batches = training.Batches(64, 10, 3, CPU)
        self.x, self.losses, self.clock = torch.linspace(-1, 1, 192).reshape(64, 3), torch.zeros(steps), Stopwatch(CPU)
        self.state = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        self.steps, self.shown, self.rates = [], [], []

    def go_on(self, stopped_at=None, change=lambda step, loss: loss):
        """Train to the end, or until the step `stopped_at` is done."""
        for step in training.steps(self.run, self.args, self.losses, self.clock, self.state,
                                   lambda mean: self.shown.append(mean) or f"loss {mean}"):
            self.steps.append(step)
            self.rates.append(self.optimizer.param_groups[0]["lr"])
            self.optimizer.zero_grad()
            loss = (self.model(self.x[self.batches[step]]) - torch.rand(1)).square().mean()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.losses[step] = change(step, loss.detach())
            if step == stopped_at:
                break
        return self

    def saved(self):
        """The content of the checkpoint that there is; None without one."""
        path = self.run.path(".ckpt")
        return torch.load(path, weights_only=True) if path.exists() else None


@pytest.mark.parametrize("steps, checkpoint_every", [(1, 1000), (7, 3), (64, 5), (100, 1000), (250, 70)])
def test_every_step_comes_once_and_checkpoints_lie_between(steps, checkpoint_every, tmp_path):
    run = Training(tmp_path, steps, checkpoint_every).go_on()
    assert run.steps == list(range(steps)) and run.losses.count_nonzero() == steps
    stops = sorted({*range(20, steps, 20), *range(checkpoint_every, steps, checkpoint_every), steps})
    parts = zip([0, *stops], stops)
    assert run.shown == pytest.approx([run.losses[start:stop].mean().item() for start, stop in parts])
    checkpoints = range(checkpoint_every, steps, checkpoint_every)  # none after the last step
    assert (run.saved() or {}).get("step") == (checkpoints[-1] if checkpoints else None)


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    whole = Training(tmp_path / "whole").go_on()
    Training(tmp_path, checkpoint_every=15).go_on(stopped_at=38)
    again = Training(tmp_path, checkpoint_every=15)
    saved = again.saved()
    torch.rand(7)  # the random numbers too are those of the checkpoint
    again.go_on()
    assert saved["step"] == 30 and again.steps == list(range(30, 50)) and again.rates == whole.rates[30:]
    assert again.losses.equal(whole.losses) and again.model.weight.equal(whole.model.weight)
    assert len(set(whole.rates)) == 3 and again.scheduler.state_dict() == whole.scheduler.state_dict()
    assert again.clock.seconds > saved["state"]["clock"]["seconds"] > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_training_before_it_is_kept(value, tmp_path):
    run = Training(tmp_path, 100, 20)
    with pytest.raises(UserError, match=f"diverged, the loss is {value} at step 40; a smaller --lr"):
        run.go_on(change=lambda step, loss: value if step == 31 else loss)
    assert run.steps == list(range(40)) and run.saved()["step"] == 20


def test_only_what_is_training_counts_as_its_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    run = Training(tmp_path, 50, 20)

    def change(step, loss):
        now[0] += 1
        with run.clock.paused():
            now[0] += 100
        return loss

    monkeypatch.setattr(Run, "checkpoint", lambda *_, **__: now.__setitem__(0, now[0] + 1000))
    assert run.go_on(change=change).clock.seconds == 50


@pytest.mark.parametrize("drop_last, per_epoch, sizes", [(True, 6, [16] * 6), (False, 7, [16] * 6 + [4])])
def test_an_epoch_draws_every_index_once_in_an_order_of_its_own(drop_last, per_epoch, sizes):
    batches = training.Batches(100, 16, 0, CPU, drop_last)
    epochs = [[batches[epoch * per_epoch + place] for place in range(per_epoch)] for epoch in range(3)]
    assert batches.per_epoch == per_epoch and all([len(batch) for batch in epoch] == sizes for epoch in epochs)
    drawn = [torch.cat(epoch) for epoch in epochs]
    assert all(len(order.unique()) == sum(sizes) and order.max() < 100 for order in drawn)
    assert not drawn[0].equal(drawn[1]) and not drawn[1].equal(drawn[2])
    resumed = training.Batches(100, 16, 0, CPU, drop_last)
    assert resumed[per_epoch + 2].equal(epochs[1][2]) and resumed[2].equal(epochs[0][2])
    assert not training.Batches(100, 16, 1, CPU, drop_last)[0].equal(epochs[0][0])
    few = training.Batches(5, 16, 0, CPU, drop_last)  # fewer than a batch: all of them
    assert few.per_epoch == 1 and few[3].sort().values.tolist() == list(range(5))


def test_a_seed_has_its_random_numbers_and_precision_its_context():
    found = []
    for seed in (3, 4, 3):
        device, autocast = training.prepare(argparse.Namespace(device="cpu", precision="bf16"), seed)
        found.append(torch.rand(5))
        with autocast:
            assert device == CPU and (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == torch.bfloat16
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])


@pytest.mark.parametrize("mode", ["relu", "sin+fr"])
def test_the_hidden_layers_weights_have_a_rate_of_their_own(mode):
    model = build_inr(mode, in_features=2, out_features=1, hidden_features=8, hidden_layers=2, low_freq_num=2,
                      high_freq_num=2, phase_num=2, alpha=0.1)
    group, = training.parameter_groups(model, 0.1)
    assert len(group["params"]) == len(list(model.parameters())) and group["lr"] == 0.1
    whole = torch.nn.Sequential(torch.nn.Linear(8, 8), model)
    for groups, of in ((training.parameter_groups(model, 0.1, 0.5), model),
                       (training.parameter_groups(whole, 0.1, 0.5, network=model), whole)):
        assert [group["lr"] for group in groups] == [0.1, 0.05]
        hidden = [name for name, parameter in model.named_parameters()
                  if any(parameter is other for other in groups[1]["params"])]
        assert len(hidden) == len(groups[1]["params"]) == 2
        assert all(name.endswith("coefficients" if "+fr" in mode else "weight") for name in hidden)
        assert sum(len(group["params"]) for group in groups) == len(list(of.parameters()))


def test_a_long_training_on_a_cpu_is_announced(tmp_path, capsys):
    args = argparse.Namespace(size="", force=False)
    network = {"hidden_features": 256, "hidden_layers": 3}
    run = Run(tmp_path, "2d", "a", "relu", 0, {"network": network})
    training.say_how_long([run, run], args, lambda config: 10**17)
    assert "training on the CPU takes about " in (line := capsys.readouterr().out) and "; --quick takes" in line
    training.say_how_long([run], argparse.Namespace(size="quick", force=False), lambda config: 10**17)
    training.say_how_long([run], args, lambda config: 10**9)
    training.say_how_long([Run(tmp_path, "2d", "a", "relu", 0, {}, device="cuda")], args, lambda config: 10**17)
    run.finish(metrics={}, arrays={"a": np.zeros(1)}, seconds=1, steps=1)
    training.say_how_long([run], args, lambda config: 10**17)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("mode", ["relu+fr", "sin", "sin+fr"])
def test_w_composed_once_for_all_chunks_gives_the_same_gradients(mode, monkeypatch):
    torch.manual_seed(0)
    model = build_inr(mode, in_features=2, out_features=3, hidden_features=16, hidden_layers=2, low_freq_num=4,
                      high_freq_num=4, phase_num=3, alpha=0.1).double()
    x = torch.rand(50, 2, dtype=torch.float64)
    whole = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    composed, compose = [], FourierReparamLinear.weight.fget
    with monkeypatch.context() as patch, training.composed_once(model):
        patch.setattr(FourierReparamLinear, "weight", property(lambda layer: composed.append(1) or compose(layer)))
        for part in x.split(20):
            model(part).square().sum().backward()
    assert not composed
    for parameter, gradient in zip(model.parameters(), whole):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-12)
    with pytest.raises(KeyError), training.composed_once(model):
        raise KeyError("an error in a step")
    with training.composed_once(model), torch.no_grad():
        model(x)  # no gradient, nothing to pass on
    assert not any("forward" in vars(layer) for layer in model)  # as before: W follows Λ again
