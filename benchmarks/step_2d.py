"""Steps a second of the 2D experiment, and how near they come to what the machine can do.

    python -m benchmarks.step_2d                     Kodak's 768 × 512 pixels, for a GPU
    python -m benchmarks.step_2d --side 96           the longer side in pixels, for a CPU

Measures the rate of a large fp32 matrix product and of a copy first. A step's floor is the larger of the time its
operations take at the one and its bytes at the other: the operations are those of the matrix products alone, the bytes
each activation written and read once forward and once back. Then times each network's step, in turn with a plain eager
loop that asks for the loss after every step.
"""

import statistics

import torch

from benchmarks.common import floor, full_batch_steps, interleaved, machine_rates, paper_network, ratio
from experiment import cli
from experiment.device import choose_device, set_precision
from models import MODES, build_inr


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("fp32", "tf32"), default="fp32")
    parser.add_argument("--side", type=cli.whole(2), default=768)
    parser.add_argument("--rounds", type=cli.whole(1), default=5)
    args = parser.parse_args()
    device = choose_device(args.device)
    matmul, copy = machine_rates(device)
    set_precision(args.precision, device)
    rows, columns = args.side * 2 // 3, args.side
    x = torch.rand(rows * columns, 2, device=device) * 2 - 1
    target = torch.rand(len(x), 3, device=device)
    print(f"{columns} × {rows} pixels, {args.precision}")
    print(f"{'mode':<12}{'steps/s':>9}{'of matmul rate':>16}{'of floor':>10}{'/ eager':>9}")
    for mode in MODES:
        network = paper_network("2d", mode)
        ours, eager = (build_inr(mode, **network).to(device) for _ in range(2))
        times = interleaved({"ours": full_batch_steps(ours, x, target),
                             "eager": full_batch_steps(eager, x, target, fused=False, eager=True)},
                            device, args.rounds, block=20 if device.type == "cuda" else 2)
        operations, moved = floor(len(x), network)
        seconds = statistics.median(times["ours"])
        print(f"{mode:<12}{1 / seconds:>9.2f}{operations / seconds / matmul:>16.2f}"
              f"{max(operations / matmul, moved / copy) / seconds:>10.2f}{ratio(times['eager'], times['ours']):>9.2f}")


if __name__ == "__main__":
    cli.run(main)
