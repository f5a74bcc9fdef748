"""Points a second of the 3D experiment's training, and how near they come to what the machine can do.

    python -m benchmarks.step_3d                              40 million voxels, 500,000 a step, for a GPU
    python -m benchmarks.step_3d --side 32 --chunk 8192       for a CPU

Times whole epochs, their shuffling included, in turn with those of the published way: a (voxels, 3) float tensor of
coordinates, the occupancies and the order of the epoch lie on the host, every chunk is copied to the device, the loss
is asked for after every step, Adam is not fused, and an FR layer forms W = Λ B from its whole basis. The rates and
floors that the epochs are compared with are those of step_2d.py.
"""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import LR, floor, interleaved, machine_rates, paper_network, ratio, with_full_products
from experiment import cli
from experiment.device import choose_device, set_precision
from experiment.training import random_order
from models import MODES, build_inr
from models.encodings import voxel_coordinates


def epochs(model: nn.Module, full: Tensor, shape: tuple[int, ...], chunk: int) -> Callable[[int], None]:
    """A function that trains for n epochs as 3D_occupance.py does; `full` (voxels,) bool is on the device."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)

    def advance(count: int) -> None:
        for epoch in range(count):
            for index in random_order(len(full), 0, epoch, full.device).split(chunk):
                optimizer.zero_grad()
                output = model(voxel_coordinates(index, shape))
                F.mse_loss(output[:, 0], full[index].float()).backward()
                optimizer.step()

    return advance


def published_epochs(model: nn.Module, full: Tensor, coordinates: Tensor, chunk: int) -> Callable[[int], None]:
    """The same in the published way; `coordinates` (voxels, 3) are on the host."""
    optimizer = torch.optim.Adam(with_full_products(model).parameters(), lr=LR)
    values = full.float().cpu()

    def advance(count: int) -> None:
        for _ in range(count):
            for index in torch.randperm(len(values)).split(chunk):
                optimizer.zero_grad()
                output = model(coordinates[index].to(full.device))
                loss = F.mse_loss(output[:, 0], values[index].to(full.device))
                loss.backward()
                optimizer.step()
                loss.item()

    return advance


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("fp32", "tf32"), default="fp32")
    parser.add_argument("--side", type=cli.whole(2), default=342, help="voxels along each axis")
    parser.add_argument("--chunk", type=cli.whole(1), default=500_000, help="points a step")
    parser.add_argument("--rounds", type=cli.whole(1), default=3, help="epochs of each that are timed")
    args = parser.parse_args()
    device = choose_device(args.device)
    matmul, copy = machine_rates(device)
    set_precision(args.precision, device)
    shape = (args.side,) * 3
    full = torch.rand(args.side**3, device=device) < 0.5
    coordinates = torch.cat([voxel_coordinates(index, shape) for index in torch.arange(len(full)).split(2**20)])
    print(f"{len(full):,} voxels, {args.chunk:,} points a step, {args.precision}")
    print(f"{'mode':<12}{'points/s':>14}{'of matmul rate':>16}{'of floor':>10}{'/ published':>13}")
    for mode in MODES:
        network = paper_network("3d", mode)
        ours, published = (build_inr(mode, **network).to(device) for _ in range(2))
        times = interleaved({"ours": epochs(ours, full, shape, args.chunk),
                             "published": published_epochs(published, full, coordinates, args.chunk)},
                            device, args.rounds, block=1)
        operations, moved = floor(len(full), network)
        seconds = statistics.median(times["ours"])
        print(f"{mode:<12}{len(full) / seconds:>14,.0f}{operations / seconds / matmul:>16.2f}"
              f"{max(operations / matmul, moved / copy) / seconds:>10.2f}"
              f"{ratio(times['published'], times['ours']):>13.2f}")


if __name__ == "__main__":
    cli.run(main)
