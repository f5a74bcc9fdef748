"""Where and how a run computes: the device, its precision, memory and time."""

import contextlib
import os
import re
import time
from collections.abc import Iterator

import torch

from data.errors import UserError


def torchrun() -> bool:
    """Whether torchrun started this process, as one rank of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def first_rank() -> bool:
    """Whether this is the rank that draws and prints; so is a process without torchrun."""
    return not torchrun() or os.environ["RANK"] == "0"


def choose_device(name: str) -> torch.device:
    """The device that `--device` names: auto, cpu, cuda or cuda:N.

    Under torchrun auto and cuda give each rank of a node the next GPU, from the first again where there are fewer GPUs
    than ranks.
    """
    match = re.fullmatch(r"(auto|cpu|cuda)(:(?:0|[1-9]\d*))?", name)
    if not match or (match[2] and match[1] != "cuda"):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if match[1] == "cpu" or (match[1] == "auto" and not count):
        return torch.device("cpu")
    index = int(match[2][1:]) if match[2] else int(os.environ.get("LOCAL_RANK", 0)) % max(1, count)
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
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def cpu_count() -> int:
    """The number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory(device: torch.device) -> str:
    """The most memory that this run has had on a GPU, for its result line; nothing on a CPU."""
    return f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else ""


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

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within it the seconds do not count: for what is measured in the middle of a training."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seconds = state["seconds"]
