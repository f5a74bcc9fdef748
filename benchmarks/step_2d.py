"""Steps a second of the 2D experiment, and how near they come to what the machine can do.

    python benchmarks/step_2d.py                     Kodak's 768 × 512 pixels, for a GPU
    python benchmarks/step_2d.py --side 96           the longer side in pixels, for a CPU

Measures the rate of a large fp32 matrix product and of a copy first. A step's floor is the larger of the time its
operations take at the one and its bytes at the other: the operations are those of the matrix products alone, the bytes
each activation written and read once forward and once back. Then times each network's step, in turn with a plain eager
loop that asks for the loss after every step.
"""

import argparse
import statistics
import sys
import time
from importlib import import_module
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiment.runtime import Repeated, Stopwatch, choose_device, matmul_rate, set_precision  # noqa: E402
from models import MODES, build_inr  # noqa: E402

PAPER = import_module("2d_image_fitting").PAPER


def copy_rate(device: torch.device) -> float:
    """Bytes read and written a second by a large copy, the best of five."""
    source = torch.rand(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(6):
        clock = Stopwatch(device)
        with clock:
            target.copy_(source)
        seconds.append(clock.seconds)
    return 2 * source.nbytes / min(seconds[1:])


def floor(pixels: int, mode: str) -> tuple[float, float]:
    """The operations of a step's matrix products, and the bytes that its activations move."""
    config = PAPER[mode]
    width, hidden = config["hidden_features"], config["hidden_layers"]
    inputs = 2 + 4 * config["pe_frequencies"] if "+pe" in mode else 2
    # 2 operations a weight and pixel, forward and twice back; the first layer's input needs no gradient.
    operations = 2 * pixels * (3 * hidden * width**2 + 2 * inputs * width + 3 * 3 * width)
    return operations, 4 * 4 * pixels * width * (hidden + 1)


def make_step(mode: str, pixels: torch.Tensor, target: torch.Tensor, eager: bool) -> Repeated:
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

    advance = Repeated(step, device)
    if eager:
        advance.warm_up = 10**9  # never captured
    return advance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("fp32", "tf32"), default="fp32")
    parser.add_argument("--side", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    device = choose_device(args.device)
    set_precision("fp32", device)
    matmul, copy = matmul_rate(device, 8192 if device.type == "cuda" else 2048), copy_rate(device)
    set_precision(args.precision, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"{name}: fp32 matrix product {matmul / 1e12:.3f} TFLOP/s, copy {copy / 1e9:.0f} GB/s")
    rows, columns = args.side * 2 // 3, args.side
    grid = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    pixels = torch.stack(grid, dim=-1).reshape(-1, 2).to(device)
    target = torch.rand(len(pixels), 3, device=device)
    block = 20 if device.type == "cuda" else 2
    print(f"{columns} × {rows} pixels, {args.precision}")
    print(f"{'mode':<12}{'steps/s':>9}{'of matmul rate':>16}{'of floor':>10}{'/ eager':>9}")
    for mode in MODES:
        operations, moved = floor(len(pixels), mode)
        times: dict[bool, list[float]] = {False: [], True: []}
        steps = {eager: make_step(mode, pixels, target, eager) for eager in times}
        for round_number in range(args.rounds + 1):
            for eager, advance in steps.items():
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                started = time.perf_counter()
                advance(block)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if round_number > 1 or (round_number and device.type == "cpu"):  # the first warms up and captures
                    times[eager].append((time.perf_counter() - started) / block)
        seconds = statistics.median(times[False])
        ratio = statistics.median(b / a for a, b in zip(times[False], times[True]))
        print(f"{mode:<12}{1 / seconds:>9.2f}{operations / seconds / matmul:>16.2f}"
              f"{max(operations / matmul, moved / copy) / seconds:>10.2f}{ratio:>9.2f}")


if __name__ == "__main__":
    main()
