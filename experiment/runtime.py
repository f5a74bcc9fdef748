"""Where and how a run computes: device, precision, threads, seed, the training step repeated, its time."""

import argparse
import contextlib
import math
import os
import platform
import re
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

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


def begin(args: argparse.Namespace, seed: int,
          one_thread: bool) -> tuple[torch.device, contextlib.AbstractContextManager]:
    """What every training begins with: the device and the autocast that the options ask for, and the seed.

    Args:
        one_thread: on a CPU, as where the other cores have runs of their own. It gives a run the same bits whatever
            their number.
    """
    device = choose_device(args.device)
    autocast = set_precision(args.precision, device)
    if one_thread and device.type == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(seed)
    return device, autocast


def cpu_count() -> int:
    """The number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes(device: torch.device) -> int:
    """Bytes of memory in all: of the GPU, or of this machine, divided among the ranks that torchrun started on it."""
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


def next_stop(step: int, steps: int, *every: int) -> int:
    """The next step at which there is something to do: a multiple of one of `every`, or the last of `steps`."""
    return min(steps, *(step - step % interval + interval for interval in every))


def check_finite(loss: float, step: int) -> None:
    """UserError if the loss is not a finite number any more."""
    if not math.isfinite(loss):
        raise UserError(f"the training has diverged, the loss is {loss} at step {step}; a smaller --lr may help")


def random_order(count: int, seed: int, epoch: int, device: torch.device) -> torch.Tensor:
    """The numbers from 0 to `count` − 1, in an order that follows from seed and epoch: a resumed epoch has its own."""
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + epoch + 1)
    return torch.randperm(count, generator=generator, device=device)


def training_hours(trainings: Iterable[tuple[dict, int]], device: torch.device) -> float:
    """The hours that trainings take at least, if all of them ran at the rate of a large matrix product.

    Args:
        trainings: for each its settings, with `hidden_features` and `hidden_layers`, and the number of points that it
            goes through in all its steps.
    """
    # Forward, and the gradients by the input and by the weight: 2 operations a weight, a point and each.
    operations = sum(6 * points * config["hidden_features"]**2 * config["hidden_layers"]
                     for config, points in trainings)
    return operations / matmul_rate(device) / 3600


def environment(device: torch.device, precision: str) -> dict[str, str]:
    """What a record says of the machine and the code that made it."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, text=True, check=True,
                              capture_output=True).stdout.strip()

    try:
        # A run rewrites records and figures; only another line of code makes the commit not say what was run.
        changed = git("diff", "--name-only", "HEAD", "--", ":/*.py")
        commit = git("rev-parse", "--short=12", "HEAD") + "-dirty" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"python": platform.python_version(), "torch": torch.__version__, "device": name, "precision": precision,
            "commit": commit}


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


class CUDAGraphStep:
    """`CUDAGraphStep(step, device)(n)` does n training steps; on CUDA as replays of a captured graph.

    A network of the paper's size is bound on a GPU by the time Python needs to launch its kernels. There the first
    steps run as usual, on a side stream; then 20 steps, and one for the remainder, are captured, and from there on 20
    steps are one launch. The kernels are the same, and so are the numbers. `step` must therefore do everything on the
    device, at fixed addresses: no .item(), no Python number that changes from step to step.
    """

    WARM_UP = 3  # as many as the capture of an autograd graph needs before it (torch.cuda.graph)
    TOGETHER = 20

    def __init__(self, step: Callable[[], None], device: torch.device):
        self.step = step
        self.device = device
        self.warm_up = self.WARM_UP
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(self, count: int) -> None:
        if self.device.type != "cuda":
            for _ in range(count):
                self.step()
            return
        eager = min(count, self.warm_up)
        if eager:
            stream = torch.cuda.Stream(self.device)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream), warnings.catch_warnings():
                # Of an optimizer made to be captured, that it is not: these few steps are meant to run so.
                warnings.filterwarnings("ignore", message="(?s).*without CUDA graph capture")
                for _ in range(eager):
                    self.step()
            torch.cuda.current_stream(self.device).wait_stream(stream)
            self.warm_up -= eager
        together, alone = divmod(count - eager, self.TOGETHER)
        for size, times in ((self.TOGETHER, together), (1, alone)):
            if times and size not in self.graphs:
                # One pool of memory for both: a step leaves nothing in it that a later one needs.
                pool = next((graph.pool() for graph in self.graphs.values()), None)
                self.graphs[size] = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graphs[size], pool=pool):
                    for _ in range(size):
                        self.step()
            for _ in range(times):
                self.graphs[size].replay()
