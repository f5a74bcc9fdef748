"""Work cut for a CPU gives what it gives uncut."""

import pytest
import torch

from models.fourier_reparam import FourierReparamLinear
from models.nerf import cpu
from models.nerf.color_mlp import color_mlp
from models.nerf.cpu import in_chunks, share_out


def test_a_network_in_chunks_is_the_network_with_each_weight_made_once(monkeypatch):
    monkeypatch.setattr(cpu, "CHUNK", 10)
    torch.manual_seed(0)
    network = color_mlp("relu+fr", 5, 16, low_freq_num=3, high_freq_num=4, phase_num=5, alpha=0.05).double()
    x, upstream, outcomes, made = torch.randn(33, 5).double().requires_grad_(), torch.randn(33, 3).double(), [], []
    compose = FourierReparamLinear._compose
    monkeypatch.setattr(FourierReparamLinear, "_compose", lambda layer: made.append(layer) or compose(layer))
    for colors in (network(x), in_chunks(network, x)):
        outcomes.append([colors, *torch.autograd.grad(colors, [x, *network.parameters()], upstream)])
    assert len(made) == 2 and all(map(torch.allclose, *outcomes))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_part_is_done_once_and_an_error_is_not_lost(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        done = torch.zeros(7, requires_grad=True)
        share_out(lambda part: done[part].add_(part), range(7), done.device)
        assert done.tolist() == list(range(7)) and torch.get_num_threads() == threads
        with pytest.raises(ZeroDivisionError):
            share_out(lambda part: 1 / (part - 3), range(7), done.device)
    finally:
        torch.set_num_threads(before)
