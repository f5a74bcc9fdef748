"""The empirical NTK of the 1D networks: the closed form against the Jacobian by autograd.

    python -m benchmarks.ntk_1d [--device cuda]

Prints the seconds and the peak of allocated memory of each, and how far apart the two kernels are.
"""

import resource
import time

import torch

from benchmarks.common import device_name, paper_network
from data.signals import square_like_wave
from harness import cli
from harness.device import choose_device
from models import build_inr, empirical_ntk


def ntk_by_autograd(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """J Jᵀ with the whole Jacobian in memory, a row by one backward pass."""
    parameters = list(model.parameters())
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, retain_graph=True)])
            for value in model(x).squeeze(1)]
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def peak_megabytes(device: torch.device) -> float:
    """The most memory this process (on the CPU) or the device's allocator has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    device = choose_device(parser.parse_args().device)
    torch.manual_seed(0)
    model = build_inr("relu+fr", **paper_network("1d", "relu+fr")).to(device)
    x = square_like_wave()[0].to(device)
    kernels = []
    print(f"{device_name(device)}, relu+fr at the paper's size, {len(x)} points")
    for name, ntk in (("closed form", empirical_ntk), ("autograd", ntk_by_autograd)):  # the small one first: peaks add
        before = peak_megabytes(device)
        started = time.perf_counter()
        kernels.append(ntk(model, x).cpu())
        print(f"{name:<12}{time.perf_counter() - started:>8.3f} s{peak_megabytes(device) - before:>8.0f} MB more")
    print(f"difference {((kernels[0] - kernels[1]).norm() / kernels[1].norm()).item():.1e} relative")


if __name__ == "__main__":
    cli.run(main)
