"""What the benchmarks share: the machine's own rates, timing in turn, and the layer as published."""

import statistics
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from experiment.runtime import Stopwatch, matmul_rate, set_precision
from models import FourierReparamLinear


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


def floor(points: int, inputs: int, outputs: int, config: dict, mode: str) -> tuple[float, float]:
    """The operations of a training step's matrix products, and the bytes that its activations move.

    Args:
        points: of the step.
        inputs, outputs: coordinates and values of a point.
        config: a mode's row of PAPER.
    """
    width, hidden = config["hidden_features"], config["hidden_layers"]
    if "+pe" in mode:
        inputs += 2 * inputs * config["pe_frequencies"]
    # 2 operations a weight and point, forward and twice back; the first layer's input needs no gradient.
    operations = 2 * points * (3 * hidden * width**2 + 2 * inputs * width + 3 * outputs * width)
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


class FullProduct(FourierReparamLinear):
    """The layer as published: the basis is stored, and W = Λ B is formed from all M rows of it."""

    stored: Tensor

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("stored", self.basis, persistent=False)

    def _compose(self) -> Tensor:
        return self.coefficients @ self.stored


def with_full_products(model: nn.Sequential) -> nn.Sequential:
    """`model` itself, with a new FullProduct in the place of each FR layer."""
    for i, layer in enumerate(model):
        if isinstance(layer, FourierReparamLinear):
            model[i] = FullProduct(layer.in_features, layer.out_features, low_freq_num=layer.low_freq_num,
                                   high_freq_num=layer.high_freq_num, phase_num=layer.phase_num,
                                   alpha=layer.alpha, omega=layer.omega)
    return model
