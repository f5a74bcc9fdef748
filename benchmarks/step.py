"""The cost of a training step of the 1D, 2D and 3D experiments: plain, Fourier reparameterized, and as published.

    python -m benchmarks.step                   300 points, 8,192 pixels, 4,096 voxels a step: for a CPU
    python -m benchmarks.step --full            393,216 pixels, 500,000 voxels: for a GPU
    python -m benchmarks.step --only 1d         one of them

Times the steps of an experiment's networks in turn, block by block. Prints medians: milliseconds a step, FR's ratio to
its baseline, and that of the published way to ours. The published way forms W = Λ B from the whole basis, and its Adam
is not fused.
"""

import statistics

import torch

from benchmarks.common import device_name, full_batch_steps, interleaved, paper_network, ratio, with_full_products
from harness import cli
from harness.device import choose_device
from models import build_inr

POINTS = {"1d": 300, "2d": 8_192, "3d": 4_096}
FULL_POINTS = {"1d": 300, "2d": 393_216, "3d": 500_000}


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--full", action="store_true", help="as many points a step as in the paper")
    parser.add_argument("--only", nargs="+", choices=POINTS, default=list(POINTS), metavar="E")
    parser.add_argument("--rounds", type=cli.whole(1), default=5)
    parser.add_argument("--block", type=cli.whole(1), help="steps a round and network (default: 20, in 1D 60)")
    args = parser.parse_args()
    device = choose_device(args.device)
    print(f"{device_name(device)}, torch {torch.__version__}")
    print(f"{'a step of':<24}{'points':>9}{'ms':>9}{'/ plain':>9}{'published / ours':>18}")
    for experiment in args.only:
        points = (FULL_POINTS if args.full else POINTS)[experiment]
        networks = {mode: paper_network(experiment, mode) for mode in ("relu", "relu+fr", "sin", "sin+fr")}
        x = 2 * torch.rand(points, networks["relu"]["in_features"], device=device) - 1
        target = torch.rand(points, networks["relu"]["out_features"], device=device)
        steps = {}
        for mode, network in networks.items():
            steps[mode] = full_batch_steps(build_inr(mode, **network).to(device), x, target)
            if "+fr" in mode:
                published = with_full_products(build_inr(mode, **network).to(device))
                steps[f"{mode}, as published"] = full_batch_steps(published, x, target, fused=False)
        times = interleaved(steps, device, args.rounds, args.block or (60 if experiment == "1d" else 20))
        for mode in networks:
            line = f"{experiment.upper() + ', ' + mode:<24}{points:>9,}{1e3 * statistics.median(times[mode]):>9.2f}"
            if "+fr" in mode:
                line += f"{ratio(times[mode], times[mode.removesuffix('+fr')]):>9.2f}"
                line += f"{ratio(times[f'{mode}, as published'], times[mode]):>18.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    cli.run(main)
