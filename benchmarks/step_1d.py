"""The cost of a training step of the 1D experiment: plain, Fourier reparameterized, and as published.

    python -m benchmarks.step_1d [--device cuda] [--threads 1]

Times the steps of six networks in turn, block by block, so that all meet the same state of the machine, and prints
the median of each and of its ratio to the plain ReLU step of the same round. `full product` is relu+fr with W = Λ B
formed from the whole basis; `as published` adds the optimizer of the published code, Adam without fusion.
"""

import statistics
from importlib import import_module

import torch
from torch.nn import functional as F

from benchmarks.common import interleaved, ratio, with_full_products
from data.signals import square_like_wave
from experiment import cli
from experiment.runtime import CUDAGraphStep, choose_device
from models import build_inr

PAPER = import_module("1d_function_fitting").PAPER


def make_step(mode: str, device: torch.device, full_product: bool = False, fused: bool = True) -> CUDAGraphStep:
    """A function that does n training steps of one network."""
    torch.manual_seed(0)
    settings = {key: value for key, value in PAPER.items() if key not in ("lr", "steps")}
    model = build_inr(mode, in_features=1, out_features=1, **settings)
    if full_product:
        with_full_products(model)
    model.to(device)
    x, target = (values.to(device) for values in square_like_wave())
    optimizer = torch.optim.Adam(model.parameters(), lr=PAPER["lr"], fused=fused or None,
                                 capturable=device.type == "cuda")

    def step() -> None:
        optimizer.zero_grad()
        F.mse_loss(model(x), target).backward()
        optimizer.step()

    return CUDAGraphStep(step, device)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--block", type=int, default=60, help="steps a round and network")
    args = parser.parse_args()
    device = choose_device(args.device)
    torch.set_num_threads(args.threads)
    times = interleaved({
        "relu": make_step("relu", device),
        "relu+fr": make_step("relu+fr", device),
        "relu+fr, full product": make_step("relu+fr", device, full_product=True),
        "relu+fr, as published": make_step("relu+fr", device, full_product=True, fused=False),
        "sin": make_step("sin", device),
        "sin+fr": make_step("sin+fr", device),
    }, device, args.rounds, args.block)

    print(f"{device}, {args.threads} threads, torch {torch.__version__}, {args.rounds} rounds of {args.block} steps")
    print(f"{'step of':<24}{'ms':>8}{'/ relu':>9}{'/ relu+fr':>11}")
    for name, seconds in times.items():
        print(f"{name:<24}{1e3 * statistics.median(seconds):>8.2f}{ratio(seconds, times['relu']):>9.2f}"
              f"{ratio(seconds, times['relu+fr']):>11.2f}")


if __name__ == "__main__":
    cli.run(main)
