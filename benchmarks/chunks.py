"""A training step of 2D and 3D as the scripts do it on a CPU, against all points at once.

    python -m benchmarks.chunks [--full]

The scripts compose W = Λ B once a step, take the points in chunks that a CPU's caches hold, and keep freed memory. The
plain way takes all points at once. Each is timed in a process of its own, block by block in turn, as memory is kept or
not by a whole process. `difference` is that of the losses of the last steps.
"""

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
from models import build_inr

POINTS = {"2d": 32_768, "3d": 16_384}
FULL = {"2d": 98_304, "3d": 50_000}


@functools.cache  # of the process that does the steps
def start(experiment: str, mode: str, points: int,
          chunk: int) -> tuple[nn.Sequential, torch.optim.Optimizer, Tensor, Tensor]:
    """A model, its optimizer, coordinates and target."""
    if chunk < points:
        keep_freed_memory()
    torch.manual_seed(0)
    network = paper_network(experiment, mode)
    model = build_inr(mode, **network)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    return (model, optimizer, 2 * torch.rand(points, network["in_features"]) - 1,
            torch.rand(points, network["out_features"]))


def advance(count: int, threads: int, experiment: str, mode: str, points: int, chunk: int) -> float:
    """Do n more steps; the last loss."""
    torch.set_num_threads(threads)
    model, optimizer, x, target = start(experiment, mode, points, chunk)
    for _ in range(count):
        optimizer.zero_grad()
        with training.composed_once(model):
            losses = []
            for of_x, of_target in zip(x.split(chunk), target.split(chunk)):
                losses.append(F.mse_loss(model(of_x), of_target) * (len(of_x) / points))
                losses[-1].backward()
        optimizer.step()
    return torch.stack(losses).sum().item()


def measure(experiment: str, mode: str, points: int, rounds: int) -> None:
    """Time the two ways in turn and print a line."""
    def steps(chunk: int) -> Callable[[int], float]:
        process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        return lambda count: process.submit(advance, count, torch.get_num_threads(), experiment, mode, points,
                                            chunk).result()

    ways = {"chunks": steps(training.CPU_CHUNK), "at once": steps(points)}
    times = interleaved(ways, torch.device("cpu"), rounds, block=2)
    chunks, at_once = (way(1) for way in ways.values())
    print(f"{experiment.upper() + ', ' + mode:<14}{points:>9,}{1e3 * statistics.median(times['chunks']):>9.0f}"
          f"{1e3 * statistics.median(times['at once']):>13.0f}{ratio(times['at once'], times['chunks']):>18.2f}"
          f"{abs(chunks / at_once - 1):>12.0e}", flush=True)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="cpu", help="of no meaning here: a GPU takes all points at once")
    parser.add_argument("--full", action="store_true", help="98,304 pixels, 50,000 voxels")
    parser.add_argument("--rounds", type=cli.whole(1), default=5)
    args = parser.parse_args()
    print(f"{device_name(torch.device('cpu'))}, chunks of {training.CPU_CHUNK:,}")
    print(f"{'a step of':<14}{'points':>9}{'ms':>9}{'at once, ms':>13}{'at once / chunks':>18}{'difference':>12}")
    for experiment, mode in (("2d", "relu+fr"), ("2d", "sin"), ("2d", "sin+fr"), ("3d", "sin"), ("3d", "sin+fr")):
        measure(experiment, mode, (FULL if args.full else POINTS)[experiment], args.rounds)


if __name__ == "__main__":
    cli.run(main)
