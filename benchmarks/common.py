"""What the benchmarks share: the paper's networks, training steps, and timing in turn."""

import functools
import statistics
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.device import Stopwatch
from models import FourierReparamLinear

SCRIPTS = {"1d": "1d_function_fitting", "2d": "2d_image_fitting", "3d": "3D_occupance"}


def paper_network(experiment: str, mode: str) -> dict[str, Any]:
    """The arguments of build_inr for a network of the paper, by its experiment: 1d, 2d or 3d."""
    return import_module(SCRIPTS[experiment]).SETTINGS[mode]["network"]


def with_full_products(model: nn.Module) -> nn.Module:
    """`model` itself, its FR layers as published: the basis is stored, and W = Λ B is formed from all M rows of it."""
    for layer in model.modules():
        if isinstance(layer, FourierReparamLinear):
            layer._compose = functools.partial(torch.matmul, layer.coefficients, layer.basis)  # type: ignore
    return model


def full_batch_steps(model: nn.Module, x: Tensor, target: Tensor, fused: bool = True) -> Callable[[int], None]:
    """A function that does n training steps, each on all points; with `fused` Adam is one kernel."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=fused)

    def advance(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            F.mse_loss(model(x), target).backward()
            optimizer.step()

    return advance


def device_name(device: torch.device) -> str:
    """The GPU's name, or the number of threads on the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def interleaved(steps: Mapping[str, Callable[[int], Any]], device: torch.device, rounds: int,
                block: int) -> dict[str, list[float]]:
    """Seconds a step of each, round by round; block by block in turn, so that all meet the same state of the machine.

    Args:
        steps: functions that do n steps.
        rounds: those that count; before them one warms up.
        block: the steps of each function in a round.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(1 + rounds):
        for name, advance in steps.items():
            clock = Stopwatch(device)
            with clock:
                advance(block)
            if round_number:
                times[name].append(clock.seconds / block)
    return times


def ratio(seconds: list[float], base: list[float]) -> float:
    """The median over the rounds of how much longer one took than the other."""
    return statistics.median(a / b for a, b in zip(seconds, base))
