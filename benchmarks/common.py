"""What the benchmarks share: the paper's networks, training steps, the machine's own rates, and timing in turn."""

import functools
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiment.device import Stopwatch, matmul_rate, set_precision
from experiment.records import read_record
from experiment.training import CUDAGraphStep
from models import FourierReparamLinear

# Published records that have the paper's networks, whatever the length of their training.
REFERENCE = Path(__file__).parents[1] / "reference"
RECORDS = {"1d": "paper/1d/function", "2d": "quick/2d/kodim05", "3d": "quick/3d/holed_sphere"}
LR = 1e-5  # nothing timed here depends on it


def paper_network(experiment: str, mode: str) -> dict[str, Any]:
    """The arguments of build_inr for a network of the paper, by its experiment: 1d, 2d or 3d."""
    return read_record(REFERENCE / RECORDS[experiment] / f"{mode}-seed0.json")["config"]["network"]


def with_full_products(model: nn.Module) -> nn.Module:
    """`model` itself, its FR layers as published: the basis is stored, and W = Λ B is formed from all M rows of it."""
    for layer in model.modules():
        if isinstance(layer, FourierReparamLinear):
            layer._compose = functools.partial(torch.matmul, layer.coefficients, layer.basis)  # type: ignore
    return model


def full_batch_steps(model: nn.Module, x: Tensor, target: Tensor, fused: bool = True,
                     eager: bool = False) -> Callable[[int], None]:
    """A function that does n training steps, each on all points.

    Args:
        fused: Adam in one kernel.
        eager: one kernel at a time also on a GPU, with the loss on the host after every step.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=fused or None, capturable=x.is_cuda and not eager)

    def step() -> None:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        if eager:
            loss.item()

    def advance(count: int) -> None:
        for _ in range(count):
            step()

    return advance if eager else CUDAGraphStep(step, x.device)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the number of threads on the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


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


def machine_rates(device: torch.device) -> tuple[float, float]:
    """Operations a second of a large fp32 matrix product, and bytes a second of a large copy; prints both."""
    set_precision("fp32", device)
    matmul, copy = matmul_rate(device, 8192 if device.type == "cuda" else 2048), copy_rate(device)
    print(f"{device_name(device)}: fp32 matrix product {matmul / 1e12:.3f} TFLOP/s, copy {copy / 1e9:.0f} GB/s")
    return matmul, copy


def floor(points: int, network: dict[str, Any]) -> tuple[float, float]:
    """The operations of a training step's matrix products, and the bytes that its activations move.

    Args:
        points: of the step.
        network: what build_inr takes.
    """
    width, hidden = network["hidden_features"], network["hidden_layers"]
    inputs = network["in_features"] * (1 + 2 * network.get("pe_frequencies", 0))
    # 2 operations a weight and point, forward and twice back; the first layer's input needs no gradient.
    operations = 2 * points * (3 * hidden * width**2 + 2 * inputs * width + 3 * network["out_features"] * width)
    # In fp32, each activation is written and read once forward and once back.
    return operations, 4 * 4 * points * width * (hidden + 1)


def interleaved(steps: Mapping[str, Callable[[int], None]], device: torch.device, rounds: int,
                block: int) -> dict[str, list[float]]:
    """Seconds a step of each, round by round; block by block in turn, so that all meet the same state of the machine.

    Args:
        steps: functions that do n steps.
        rounds: those that count; before them one warms up, and on CUDA a second, as graphs may be captured.
        block: the steps of each function in a round.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    warm_up = 2 if device.type == "cuda" else 1
    for round_number in range(warm_up + rounds):
        for name, advance in steps.items():
            clock = Stopwatch(device)
            with clock:
                advance(block)
            if round_number >= warm_up:
                times[name].append(clock.seconds / block)
    return times


def ratio(seconds: list[float], base: list[float]) -> float:
    """The median over the rounds of how much longer one took than the other."""
    return statistics.median(a / b for a, b in zip(seconds, base))
