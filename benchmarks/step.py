"""A training step of the 1D, 2D and 3D experiments as the scripts do it, against the published way of the same.

    python -m benchmarks.step                   300 points, 16,384 pixels, 16,384 voxels a step: for a CPU
    python -m benchmarks.step --full            393,216 pixels, 500,000 voxels: for a GPU
    python -m benchmarks.step --only 1d         one of them

The published way forms W = Λ B from the whole basis, takes all points at once, and its Adam is not fused. The scripts
compose W by its phases. In 2D and 3D they do it once a step, take the points in chunks that a CPU's caches hold, and
keep freed memory. Every network is timed in a process of its own, block by block in turn, as memory is kept by a whole
process or not. Prints medians: milliseconds a step, FR's ratio to its baseline, and that of the published way to ours.
`difference` is that of the losses of the two.
"""

import contextlib
import functools
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import device_name, interleaved, paper_network, ratio
from harness import cli, training
from harness.allocator import keep_freed_memory
from harness.device import choose_device
from models import FourierReparamLinear, build_inr

POINTS = {"1d": 300, "2d": 16_384, "3d": 16_384}
FULL_POINTS = {"1d": 300, "2d": 393_216, "3d": 500_000}
MODES = ("relu", "relu+fr", "sin", "sin+fr")


def with_full_products(model: nn.Module) -> nn.Module:
    """`model` itself, its FR layers as published: the basis is stored, and W = Λ B is formed from all M rows of it."""
    for layer in model.modules():
        if isinstance(layer, FourierReparamLinear):
            layer._compose = functools.partial(torch.matmul, layer.coefficients, layer.basis)  # type: ignore
    return model


@functools.cache  # of the process that does the steps
def start(experiment: str, mode: str, points: int, device: torch.device,
          as_published: bool) -> tuple[nn.Sequential, torch.optim.Optimizer, Tensor, Tensor]:
    """A model, its optimizer, coordinates and target."""
    torch.manual_seed(0)
    network = paper_network(experiment, mode)
    model = build_inr(mode, **network).to(device)
    if as_published:
        with_full_products(model)
    else:
        keep_freed_memory()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=not as_published)
    return (model, optimizer, (2 * torch.rand(points, network["in_features"]) - 1).to(device),
            torch.rand(points, network["out_features"]).to(device))


def advance(count: int, threads: int, experiment: str, mode: str, points: int, device: torch.device,
            as_published: bool) -> float:
    """Do n more steps of a network; the last loss."""
    torch.set_num_threads(threads)
    model, optimizer, x, target = start(experiment, mode, points, device, as_published)
    chunk = points if as_published else training.chunk_size(None, device)
    for _ in range(count):
        optimizer.zero_grad()
        with contextlib.nullcontext() if as_published or experiment == "1d" else training.composed_once(model):
            losses = []
            for of_x, of_target in zip(x.split(chunk), target.split(chunk)):
                losses.append(F.mse_loss(model(of_x), of_target) * (len(of_x) / len(x)))
                losses[-1].backward()
        optimizer.step()
    return torch.stack(losses).sum().item()


def measure(experiment: str, points: int, device: torch.device, rounds: int, block: int) -> None:
    """Time an experiment's networks in turn, and print a line for each."""
    with contextlib.ExitStack() as processes:
        def steps(mode: str, as_published: bool) -> Callable[[int], float]:
            process = processes.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
            return lambda count: process.submit(advance, count, torch.get_num_threads(), experiment, mode, points,
                                                device, as_published).result()

        ways = {(mode, as_published): steps(mode, as_published) for mode in MODES for as_published in (False, True)}
        losses = {way: advance_by(1) for way, advance_by in ways.items()}
        times = interleaved(ways, device, rounds, block)
    for mode in MODES:
        ours, theirs = times[mode, False], times[mode, True]
        to_plain = f"{ratio(ours, times[mode.removesuffix('+fr'), False]):.2f}" if "+fr" in mode else "–"
        print(f"{experiment.upper() + ', ' + mode:<14}{points:>9,}{1e3 * statistics.median(ours):>9.2f}{to_plain:>9}"
              f"{ratio(theirs, ours):>18.2f}{abs(losses[mode, False] / losses[mode, True] - 1):>12.0e}", flush=True)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--full", action="store_true", help="as many points a step as in the paper")
    parser.add_argument("--only", nargs="+", choices=POINTS, default=list(POINTS), metavar="E")
    parser.add_argument("--rounds", type=cli.whole(1), default=5)
    parser.add_argument("--block", type=cli.whole(1), help="steps a round and network (default: 4, in 1D 60)")
    args = parser.parse_args()
    device = choose_device(args.device)
    print(f"{device_name(device)}, torch {torch.__version__}")
    print(f"{'a step of':<14}{'points':>9}{'ms':>9}{'/ plain':>9}{'published / ours':>18}{'difference':>12}")
    for experiment in args.only:
        measure(experiment, (FULL_POINTS if args.full else POINTS)[experiment], device, args.rounds,
                args.block or (60 if experiment == "1d" else 4))


if __name__ == "__main__":
    cli.run(main)
