"""Losses of short trainings as they were when they were written down, which float64 repeats to 2e-6.

After a change that means to change them, `python -m tests.test_golden_trajectories` prints the new ones.
"""

import pytest
import torch
from torch.nn import functional as F

from models import MODES, build_inr

AT = (0, 1, 10, 20, 40)  # steps of Adam
GOLDEN = {
    "relu": [0.3900672, 0.3875602, 0.3653413, 0.3419036, 0.2972681],
    "relu+fr": [0.5465248, 0.5266033, 0.378196, 0.2713793, 0.1708944],
    "relu+pe": [0.4094372, 0.406015, 0.3756006, 0.3424036, 0.2757883],
    "relu+pe+fr": [0.4330378, 0.4261523, 0.3696055, 0.3162643, 0.2311262],
    "sin": [0.3711713, 0.3532687, 0.2466227, 0.1958067, 0.1397809],
    "sin+fr": [0.3521587, 0.3488369, 0.3161892, 0.2630678, 0.1473744],
}


def losses(mode, dtype):
    """The losses at AT of a network of the paper's kind in 2D that fits three waves on a grid."""
    torch.manual_seed(0)
    model = build_inr(mode, in_features=2, out_features=3, hidden_features=64, hidden_layers=3, low_freq_num=32,
                      high_freq_num=32, phase_num=8, alpha=0.01 if "sin" in mode else 0.05).to(dtype)
    x = torch.cartesian_prod(*[torch.linspace(-1, 1, 24, dtype=dtype)] * 2)
    target = torch.sin(x @ torch.tensor([[9.0, 3, 1], [2, 5, 7]], dtype=dtype)) / 2 + 0.5
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    found = []
    for step in range(AT[-1] + 1):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        if step in AT:
            found.append(loss.item())
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
def test_trainings_go_as_before(mode, dtype):
    assert losses(mode, dtype) == pytest.approx(GOLDEN[mode], rel=1e-4)


if __name__ == "__main__":
    for mode in MODES:
        print(f"{mode!r}: {[float(f'{loss:.7g}') for loss in losses(mode, torch.float32)]},")
