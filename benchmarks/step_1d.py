"""The cost of a training step of the 1D experiment: plain, Fourier reparameterized, and as published.

    python -m benchmarks.step_1d [--device cuda] [--threads 1]

Times the steps of six networks in turn, block by block, so that all meet the same state of the machine, and prints
the median of each and of its ratio to the plain ReLU step of the same round. `full product` is relu+fr with W = Λ B
formed from the whole basis; `as published` adds the optimizer of the published code, Adam without fusion.
"""

import statistics

import torch

from benchmarks.common import device_name, full_batch_steps, interleaved, paper_network, ratio, with_full_products
from data.signals import square_like_wave
from experiment import cli
from experiment.device import choose_device
from models import build_inr


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=cli.whole(1), default=torch.get_num_threads())
    parser.add_argument("--rounds", type=cli.whole(1), default=15)
    parser.add_argument("--block", type=cli.whole(1), default=60, help="steps a round and network")
    args = parser.parse_args()
    device = choose_device(args.device)
    torch.set_num_threads(args.threads)
    x, target = (values.to(device) for values in square_like_wave())

    def model(mode: str) -> torch.nn.Module:
        return build_inr(mode, **paper_network("1d", mode)).to(device)

    times = interleaved({
        "relu": full_batch_steps(model("relu"), x, target),
        "relu+fr": full_batch_steps(model("relu+fr"), x, target),
        "relu+fr, full product": full_batch_steps(with_full_products(model("relu+fr")), x, target),
        "relu+fr, as published": full_batch_steps(with_full_products(model("relu+fr")), x, target, fused=False),
        "sin": full_batch_steps(model("sin"), x, target),
        "sin+fr": full_batch_steps(model("sin+fr"), x, target),
    }, device, args.rounds, args.block)

    print(f"{device_name(device)}, torch {torch.__version__}, {args.rounds} rounds of {args.block} steps")
    print(f"{'step of':<24}{'ms':>8}{'/ relu':>9}{'/ relu+fr':>11}")
    for name, seconds in times.items():
        print(f"{name:<24}{1e3 * statistics.median(seconds):>8.2f}{ratio(seconds, times['relu']):>9.2f}"
              f"{ratio(seconds, times['relu+fr']):>11.2f}")


if __name__ == "__main__":
    cli.run(main)
