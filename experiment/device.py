"""Where and how a run computes: the device, its precision, threads, memory and time."""

import contextlib
import math
import os
import re
import time

import torch

from experiment.errors import UserError
from experiment.ranks import torchrun


def choose_device(name: str) -> torch.device:
    """The device that `--device` names: auto, cpu, cuda or cuda:N.

    Under torchrun auto and cuda give each rank of a node the next GPU, from the first again where there are fewer GPUs
    than ranks; on the CPU each rank has its share of the cores.
    """
    match = re.fullmatch(r"(auto|cpu|cuda)(:(?:0|[1-9]\d*))?", name)
    if not match or (match[2] and match[1] != "cuda"):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if match[1] == "cpu" or (match[1] == "auto" and not count):
        if torchrun():
            torch.set_num_threads(max(1, cpu_count() // int(os.environ["LOCAL_WORLD_SIZE"])))
        return torch.device("cpu")
    if match[2]:
        index = int(match[2][1:])
    else:
        index = int(os.environ["LOCAL_RANK"]) % max(1, count) if torchrun() else 0
    if index >= count:
        raise UserError(f"--device {name}: {count or 'no'} CUDA GPU{'s' * (count != 1)} here; try --device cpu")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def set_precision(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Set the precision of float32 matrix products; the context to run the forward pass in.

    fp32 is full precision, tf32 the tensor cores' rounding of inputs, bf16 autocast. Weights stay float32 in all.
    """
    if precision == "tf32" and device.type != "cuda":
        raise UserError("--precision tf32 needs a CUDA GPU; the CPU has fp32 and bf16")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision == "bf16":
        # No cache of cast weights: inside a captured graph it would outlive the weights it was made from.
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    return contextlib.nullcontext()


def cpu_count() -> int:
    """The number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes(device: torch.device) -> int:
    """Memory in all: of the GPU, or of this machine, divided among the ranks that torchrun started on it."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // math.ceil(ranks / torch.cuda.device_count())
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // ranks


def matmul_rate(device: torch.device, size: int = 1024) -> float:
    """Operations a second of a product of two size × size matrices, at the precision set; the best of five."""
    a, b = torch.rand(2, size, size, device=device)
    seconds = []
    for _ in range(6):
        clock = Stopwatch(device)
        with clock:
            a @ b
        seconds.append(clock.seconds)
    return 2 * size**3 / min(seconds[1:])  # the first loads the library


class Stopwatch:
    """Adds up the seconds spent inside `with stopwatch:`, the device's queue included; goes into a checkpoint."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = 0.0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __enter__(self) -> None:
        self._started = self._now()

    def __exit__(self, *_) -> None:
        self.seconds += self._now() - self._started

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seconds = state["seconds"]
