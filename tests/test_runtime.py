"""Device choice and the repeated step."""

import pytest
import torch

from experiment.errors import UserError
from experiment.runtime import CUDAGraphStep, Stopwatch, choose_device
from models import build_inr


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "", "CPU"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(UserError, match="--device"):
        choose_device(name)


def test_the_cuda_device_always_has_an_index(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    names = {"auto": 0, "cuda": 0, "cuda:1": 1}
    assert [choose_device(name).index for name in names] == list(names.values()) == [d.index for d in chosen]
    for name in ("cuda:2", "cuda:128"):
        with pytest.raises(UserError, match=name):
            choose_device(name)


def test_repeated_takes_the_steps_asked_for():
    taken = []
    advance = CUDAGraphStep(lambda: taken.append(1), torch.device("cpu"))
    advance(7)
    advance(0)
    advance(25)
    assert len(taken) == 32


def test_stopwatch_adds_up_and_survives_a_checkpoint():
    clock = Stopwatch(torch.device("cpu"))
    with clock:
        pass
    first = clock.seconds
    with clock:
        pass
    assert clock.seconds > first > 0
    other = Stopwatch(torch.device("cpu"))
    other.load_state_dict(clock.state_dict())
    assert other.seconds == clock.seconds


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
