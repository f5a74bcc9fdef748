"""Steps a second of the 2D experiment, and how near they come to what the machine can do.

    python -m benchmarks.step_2d                     Kodak's 768 × 512 pixels, for a GPU
    python -m benchmarks.step_2d --side 96           the longer side in pixels, for a CPU

Measures the rate of a large fp32 matrix product and of a copy first. A step's floor is the larger of the time its
operations take at the one and its bytes at the other: the operations are those of the matrix products alone, the bytes
each activation written and read once forward and once back. Then times each network's step, in turn with a plain eager
loop that asks for the loss after every step.
"""

import statistics
from importlib import import_module

import torch
from torch.nn import functional as F

from benchmarks.common import floor, interleaved, machine_rates, ratio
from experiment import cli
from experiment.runtime import CUDAGraphStep, choose_device, set_precision
from models import MODES, build_inr

PAPER = import_module("2d_image_fitting").PAPER


def make_step(mode: str, pixels: torch.Tensor, target: torch.Tensor, eager: bool) -> CUDAGraphStep:
    """A function that does n training steps; `eager`: one kernel at a time, with the loss on the host every step."""
    torch.manual_seed(0)
    device = pixels.device
    settings = {key: value for key, value in PAPER[mode].items() if key not in ("lr", "steps", "decay_at")}
    model = build_inr(mode, in_features=2, out_features=3, **settings).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=None if eager else True,
                                 capturable=device.type == "cuda" and not eager)

    def step() -> None:
        optimizer.zero_grad()
        loss = F.mse_loss(model(pixels), target)
        loss.backward()
        optimizer.step()
        if eager:
            loss.item()

    advance = CUDAGraphStep(step, device)
    if eager:
        advance.warm_up = 10**9  # never captured
    return advance


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("fp32", "tf32"), default="fp32")
    parser.add_argument("--side", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    device = choose_device(args.device)
    matmul, copy = machine_rates(device)
    set_precision(args.precision, device)
    rows, columns = args.side * 2 // 3, args.side
    grid = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    pixels = torch.stack(grid, dim=-1).reshape(-1, 2).to(device)
    target = torch.rand(len(pixels), 3, device=device)
    print(f"{columns} × {rows} pixels, {args.precision}")
    print(f"{'mode':<12}{'steps/s':>9}{'of matmul rate':>16}{'of floor':>10}{'/ eager':>9}")
    for mode in MODES:
        operations, moved = floor(len(pixels), 2, 3, PAPER[mode], mode)
        times = interleaved({"ours": make_step(mode, pixels, target, eager=False),
                             "eager": make_step(mode, pixels, target, eager=True)},
                            device, args.rounds, block=20 if device.type == "cuda" else 2)
        seconds = statistics.median(times["ours"])
        print(f"{mode:<12}{1 / seconds:>9.2f}{operations / seconds / matmul:>16.2f}"
              f"{max(operations / matmul, moved / copy) / seconds:>10.2f}{ratio(times['eager'], times['ours']):>9.2f}")


if __name__ == "__main__":
    cli.run(main)
