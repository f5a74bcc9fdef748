"""The blocks of a training, the order of an epoch, and captured steps."""

import argparse
import contextlib

import pytest
import torch

from experiment.device import Stopwatch
from experiment.errors import UserError
from experiment.records import Run
from experiment.training import CUDAGraphStep, prepare, random_order
from experiment.training import blocks as training_blocks
from models import build_inr

CPU = torch.device("cpu")


class Training:
    """A training whose loss is the number of the step, and which counts its steps in what a checkpoint keeps."""

    def __init__(self, path, steps, checkpoint_every=1000):
        self.run = Run(path, "1d", "function", "relu", 0, {"steps": steps})
        self.args = argparse.Namespace(checkpoint_every=checkpoint_every)
        self.losses, self.clock = torch.zeros(steps), Stopwatch(CPU)
        self.state, self.blocks, self.shown = {"count": torch.zeros(())}, [], []

    def go_on(self, stop_every=None, stopped_at=None, loss=float):
        """Train to the end, or until the step `stopped_at` is done."""
        for block in training_blocks(self.run, self.args, self.clock, self.losses, self.state,
                                     lambda mean: self.shown.append(mean) or f"loss {mean}",
                                     [stop_every] if stop_every else []):
            self.blocks.append(block)
            with self.clock:
                for step in block:
                    self.losses[step] = loss(step)
                    self.state["count"] += 1
                    if step == stopped_at:
                        return

    def saved(self):
        """The content of the checkpoint that there is; None without one."""
        path = self.run.path(".ckpt")
        return torch.load(path, weights_only=True) if path.exists() else None


@pytest.mark.parametrize("steps, checkpoint_every, stop_every", [
    (1, 1000, None), (7, 3, None), (100, 1000, None), (3000, 1000, 250), (2999, 70, 33), (64, 5, 7), (50, 1000, 400)])
def test_blocks_have_every_step_once_and_cross_no_multiple(steps, checkpoint_every, stop_every, tmp_path):
    training = Training(tmp_path, steps, checkpoint_every)
    training.go_on(stop_every)
    assert [step for block in training.blocks for step in block] == list(range(steps))
    for every in filter(None, (checkpoint_every, stop_every)):
        assert all(block.start // every == (block.stop - 1) // every for block in training.blocks)
    # Often enough for the eye, and as long as a captured graph where nothing else ends them.
    longest = max(CUDAGraphStep.TOGETHER, min(100, steps // 100))
    assert max(map(len, training.blocks)) == min(longest, steps, checkpoint_every, stop_every or steps)
    assert training.shown == pytest.approx([(block.start + block.stop - 1) / 2 for block in training.blocks])
    checkpoints = range(checkpoint_every, steps, checkpoint_every)  # none after the last step
    assert (training.saved() or {}).get("step") == (checkpoints[-1] if checkpoints else None)


def test_a_stopped_training_goes_on_from_its_checkpoint(tmp_path):
    stopped = Training(tmp_path, 100, 30)
    stopped.go_on(stopped_at=75)
    saved = stopped.saved()
    assert saved["step"] == 60 and saved["state"]["count"] == 60 and stopped.state["count"] == 76
    again = Training(tmp_path, 100, 30)
    again.go_on()
    assert again.blocks == [range(60, 80), range(80, 90), range(90, 100)]
    assert torch.equal(again.losses, torch.arange(100.0)) and again.state["count"] == 100
    assert again.clock.seconds > saved["state"]["clock"]["seconds"] > 0


def test_what_replaces_a_part_of_the_state_is_what_a_checkpoint_keeps(tmp_path):
    training = Training(tmp_path, 60, 20)

    def loss(step):
        if step == 30:
            training.state["count"] = torch.zeros(())
        return float(step)

    training.go_on(loss=loss)
    assert training.saved()["step"] == 40 and training.saved()["state"]["count"] == 10


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_training_before_it_is_kept(value, tmp_path):
    training = Training(tmp_path, 100, 20)
    with pytest.raises(UserError, match=f"diverged, the loss is {value} at step 40; a smaller --lr"):
        training.go_on(loss=lambda step: value if step == 31 else 0.0)
    assert training.blocks[-1] == range(20, 40) and training.saved()["step"] == 20


def test_an_epoch_goes_through_every_sample_once_in_an_order_of_its_own():
    orders = [random_order(1000, seed, epoch, CPU) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(order.sort().values.equal(torch.arange(1000)) for order in orders)
    assert not orders[0].equal(orders[1]) and not orders[0].equal(orders[2])
    assert orders[0].equal(random_order(1000, 0, 0, CPU))


def test_a_seed_has_its_random_numbers_and_one_thread_is_one():
    args, threads = argparse.Namespace(device="cpu", precision="bf16"), torch.get_num_threads()
    found = []
    for seed in (3, 4, 3):
        device, autocast = prepare(args, seed, one_thread=False)
        found.append(torch.rand(5))
        with autocast:
            assert device == CPU and (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == torch.bfloat16
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    assert torch.get_num_threads() == threads
    prepare(args, 0, one_thread=True)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)


def test_the_steps_asked_for_are_taken():
    taken = []
    advance = CUDAGraphStep(lambda: taken.append(1), CPU)
    advance(7)
    advance(0)
    advance(25)
    assert len(taken) == 32


def test_after_a_failed_capture_nothing_is_captured_again(monkeypatch):
    class NoStream:
        def wait_stream(self, other):
            pass

    @contextlib.contextmanager
    def capture(graph, pool=None):
        captured.append(graph)
        yield

    captured, taken = [], []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: NoStream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: NoStream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(CUDAGraphStep, "capture_failed", False)

    def step():
        taken.append(1)
        if captured and not CUDAGraphStep.capture_failed:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        CUDAGraphStep(step, torch.device("cuda"))(CUDAGraphStep.WARM_UP + 1)
    assert len(captured) == 1 and CUDAGraphStep.capture_failed
    taken.clear()
    CUDAGraphStep(step, torch.device("cuda"))(30)
    assert len(captured) == 1 and len(taken) == 30


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["relu+fr", "sin+fr"])
def test_captured_steps_are_the_eager_steps(mode):
    device = torch.device("cuda")

    def losses(repeat):
        torch.manual_seed(0)
        model = build_inr(mode, in_features=1, out_features=1, hidden_features=64, hidden_layers=2, low_freq_num=16,
                          high_freq_num=16, phase_num=8, alpha=0.05, first_omega=5, hidden_omega=5).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=True)
        x = torch.linspace(-1, 1, 100, device=device)[:, None]
        kept, row = torch.zeros(100, device=device), torch.zeros(1, dtype=torch.long, device=device)

        def step():
            optimizer.zero_grad()
            loss = (model(x) - x.sin()).square().mean()
            loss.backward()
            optimizer.step()
            kept.index_copy_(0, row, loss.detach()[None])
            row.add_(1)

        repeat(step)
        return kept.cpu()

    def eager(step):
        for _ in range(100):
            step()

    def captured(step):
        advance = CUDAGraphStep(step, device)
        for count in (1, 30, 45, 24):
            advance(count)

    assert torch.equal(losses(eager), losses(captured))
