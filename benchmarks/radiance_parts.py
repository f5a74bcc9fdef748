"""Two parts of the radiance fields that cost much, each against the plain way.

    python -m benchmarks.radiance_parts                                         the encoding at the paper's size
    python -m benchmarks.radiance_parts --points 4000 --voxels 24 --levels 4    smaller ones

The hash encoding, forward and backward, against a loop over its levels, and MaskedAdam on a feature grid of which a
step touches `--touched` of the voxels, against an Adam that goes through all of them. `of floor` is the least time at
the machine's copy rate, which is printed first, over the time taken. The least that has to be moved are, of the
encoding, the rows at each point's corners, once forward and twice back; of MaskedAdam, the gradient, and p, m and v
where they are touched, read and written.
"""

import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.common import interleaved, machine_rates, ratio
from experiment import cli
from experiment.device import choose_device
from models.nerf.hash_grid import PRIMES, HashGrid
from models.nerf.masked_adam import MaskedAdam


def plain_encoding(grid: HashGrid, x01: Tensor) -> Tensor:
    """What HashGrid computes, a level after the other, with the gradient left to autograd."""
    corners = torch.cartesian_prod(*[torch.arange(2, device=x01.device)] * 3)[:, None]  # (8, 1, 3)
    encoded = []
    for level, (scale, points, size) in enumerate(zip(grid.scales, grid.resolutions, grid.sizes)):
        position = x01 * scale + 0.5
        cell = position.floor()
        weights = torch.where(corners == 1, position - cell, 1 - position + cell).prod(2)  # (8, S)
        x, y, z = (cell.long() + corners).clamp(0, points - 1).unbind(2)
        if level < grid.dense_levels:
            rows = x + points * (y + points * z)
        else:
            rows = (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) % size
        table = grid.table.narrow(0, sum(grid.sizes[:level]), size)
        encoded.append((weights[:, :, None] * table[rows]).sum(0))
    return torch.cat(encoded, dim=1)


@torch.no_grad()
def dense_step(p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, lr: float, betas: tuple[float, float] = (0.9, 0.99),
               eps: float = 1e-8) -> None:
    """The t-th step of MaskedAdam with skip_zero_grad, in passes over all elements; changes p, m and v."""
    touched = g != 0
    m.copy_(torch.where(touched, betas[0] * m + (1 - betas[0]) * g, m))
    v.copy_(torch.where(touched, betas[1] * v + (1 - betas[1]) * g * g, v))
    size = lr * math.sqrt(1 - betas[1]**t) / (1 - betas[0]**t)
    p.sub_(torch.where(touched, size * m / (v.sqrt() + eps), 0))


def encoding_steps(grid: HashGrid, encode: Callable[[Tensor], Tensor], x01: Tensor) -> Callable[[int], None]:
    """A function that encodes n times, forward and backward."""
    above = torch.rand(len(x01), grid.out_features, device=x01.device)

    def advance(count: int) -> None:
        for _ in range(count):
            grid.table.grad = None
            encode(x01).backward(above)

    return advance


def touched_gradient(shape: tuple[int, ...], share: float, device: torch.device) -> Tensor:
    """A gradient (C, X, Y, Z) that is 0 but in a block of voxels, which a surface's neighborhood is in memory too."""
    gradient = torch.zeros(shape, device=device)
    side = max(1, round(shape[1] * share ** (1 / 3)))
    gradient[:, :side, :side, :side] = torch.randn(shape[0], side, side, side, device=device)
    return gradient


def optimizer_steps(gradient: Tensor) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Functions that do n steps from the same state: of MaskedAdam, and of `dense_step`."""
    p = nn.Parameter(torch.zeros_like(gradient))
    p.grad = gradient
    optimizer = MaskedAdam([{"params": [p], "skip_zero_grad": True}], lr=0.1)
    plain, m, v = (torch.zeros_like(gradient) for _ in range(3))
    t = 0

    def ours(count: int) -> None:
        for _ in range(count):
            optimizer.step()

    def dense(count: int) -> None:
        nonlocal t
        for _ in range(count):
            t += 1
            dense_step(plain, gradient, m, v, t, lr=0.1)

    return ours, dense


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--points", type=cli.whole(1), default=60_000, help="that are encoded")
    parser.add_argument("--levels", type=cli.whole(1), default=16, help="of the encoding")
    parser.add_argument("--voxels", type=cli.whole(1), default=100, help="of the feature grid along an axis")
    parser.add_argument("--touched", type=cli.positive, default=0.03, help="the share of voxels that a step touches")
    parser.add_argument("--rounds", type=cli.whole(1), default=3)
    parser.add_argument("--block", type=cli.whole(1), default=3, help="steps of each in a round")
    args = parser.parse_args()
    device = choose_device(args.device)
    _, copy = machine_rates(device)
    torch.manual_seed(0)

    grid = HashGrid(args.levels).to(device)
    x01 = torch.rand(args.points, 3, device=device)
    gradient = touched_gradient((12, args.voxels, args.voxels, args.voxels), args.touched, device)
    nonzero = int(gradient.count_nonzero())
    masked, dense = optimizer_steps(gradient)
    cases = {f"encoding of {args.points:,} points":
             (encoding_steps(grid, grid, x01), encoding_steps(grid, lambda x: plain_encoding(grid, x), x01),
              3 * args.points * args.levels * 8 * grid.features * 4),
             f"Adam of {gradient.numel():,}, {nonzero / gradient.numel():.1%}":
             (masked, dense, gradient.nbytes + 6 * 4 * nonzero)}
    print(f"{'':<36}{'ms':>10}{'plain, ms':>12}{'plain / ours':>14}{'of floor':>10}")
    for name, (ours, plain, moved) in cases.items():
        times = interleaved({"ours": ours, "plain": plain}, device, args.rounds, args.block)
        seconds = statistics.median(times["ours"])
        print(f"{name:<36}{1e3 * seconds:>10.1f}{1e3 * statistics.median(times['plain']):>12.1f}"
              f"{ratio(times['plain'], times['ours']):>14.2f}{moved / copy / seconds:>10.2f}", flush=True)


if __name__ == "__main__":
    cli.run(main)
