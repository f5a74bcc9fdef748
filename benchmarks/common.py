"""What the benchmarks share: the paper's networks, and timing in turn."""

import statistics
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch

from harness.device import Stopwatch

SCRIPTS = {"1d": "1d_function_fitting", "2d": "2d_image_fitting", "3d": "3D_occupance"}


def paper_network(experiment: str, mode: str) -> dict[str, Any]:
    """The arguments of build_inr for a network of the paper, by its experiment: 1d, 2d or 3d."""
    return import_module(SCRIPTS[experiment]).SETTINGS[mode]["network"]


def device_name(device: torch.device) -> str:
    """The GPU's name, or the number of threads on the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def interleaved(steps: Mapping[Any, Callable[[int], Any]], device: torch.device, rounds: int,
                block: int) -> dict[Any, list[float]]:
    """Seconds a step of each, round by round; block by block in turn, so that all meet the same state of the machine.

    Args:
        steps: functions that do n steps.
        rounds: those that count; before them one warms up.
        block: the steps of each function in a round.
    """
    times: dict[Any, list[float]] = {name: [] for name in steps}
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
