"""What every training needs around its loop: the seed, the steps with checkpoints between, batches, learning rates."""

import argparse
import contextlib
import functools
import math
import multiprocessing
import threading
import timeit
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from data.errors import UserError
from harness.allocator import keep_freed_memory
from harness.device import Stopwatch, choose_device, first_rank, set_precision
from harness.records import Run
from models import FourierReparamLinear, Sine

# Points in memory at once: their activations stay in a CPU's cache; in a network 256 wide they take 2 GB of a GPU.
CPU_CHUNK, GPU_CHUNK = 4_096, 131_072

tqdm.set_lock(threading.RLock())  # its own is also one between processes, which a worker that is ended leaves behind


def prepare(args: argparse.Namespace, seed: int) -> tuple[torch.device, contextlib.AbstractContextManager]:
    """Set the seed, and return the device and the autocast context that the options ask for."""
    device = choose_device(args.device)
    autocast = set_precision(args.precision, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        keep_freed_memory()
    torch.manual_seed(seed)
    return device, autocast


def chunk_size(chunk: int | None, device: torch.device) -> int:
    """The number of points in memory at once: what --chunk says, or what suits the device."""
    return chunk or (CPU_CHUNK if device.type == "cpu" else GPU_CHUNK)


def steps(run: Run, args: argparse.Namespace, losses: Tensor, clock: Stopwatch, state: dict[str, Any],
          merit: Callable[[float], str]) -> Iterator[int]:
    """The steps of a training, timed. Now and then the progress is shown and a checkpoint written.

        for step in training.steps(run, args, losses, clock, state, merit):
            ...  # forward, loss, backward, step
            losses[step] = loss.detach()

    A run that was stopped goes on from its last checkpoint. It is loaded into `state` when the loop begins.

    Args:
        losses: (steps,), on the device; the training's length, and the loss of each step once it is done.
        clock: counts the seconds; `with clock.paused():` leaves out what is not training.
        state: what a checkpoint keeps beside `losses` and `clock`: tensors, and whatever has a state_dict. Read at
            each checkpoint, so that an entry may be replaced during the training.
        merit: the text of the progress bar, from the mean of the last losses.

    Raises:
        UserError: a loss that is not finite.
    """
    total = len(losses)
    show_every = min(100, max(20, total // 100))
    state.update(losses=losses, clock=clock)
    step = run.restore(**state)
    if step:
        tqdm.write(f"{run}: going on after step {step:,} of {total:,}")
    hidden = not first_rank() or multiprocessing.parent_process() is not None  # one bar, that of the first process
    with tqdm(total=total, initial=step, desc=str(run), leave=False, dynamic_ncols=True, disable=hidden or None) as bar:
        while step < total:
            first = step
            stop = min(total, *(step - step % every + every for every in (show_every, args.checkpoint_every)))
            with clock:
                for step in range(first, stop):
                    yield step
            step = stop
            loss = losses[first:stop].mean().item()
            if not math.isfinite(loss):
                raise UserError(f"the training has diverged, the loss is {loss} at step {stop}; "
                                "a smaller --lr may help")
            bar.update(stop - first)
            bar.set_postfix_str(merit(loss))
            if step % args.checkpoint_every == 0 and step < total:
                run.checkpoint(step, **state)


class Batches:
    """`batches[step]` are the indices of a step, (batch,). Each epoch draws every index once, in random order.

    The order follows from seed and epoch, so that a resumed training draws the same.

    Args:
        count: indices lie below it.
        size: of a batch.
        drop_last: leave out what remains of an epoch after its last whole batch.

    Attributes:
        per_epoch: the number of batches in an epoch.
    """

    def __init__(self, count: int, size: int, seed: int, device: torch.device, drop_last: bool = True):
        self.count, self.size, self.seed, self.device = count, size, seed, device
        self.per_epoch = max(1, count // size if drop_last else math.ceil(count / size))
        self.epoch = -1

    def __getitem__(self, step: int) -> Tensor:
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, random_order(self.count, self.seed, epoch, self.device)
        return self.order[place * self.size:(place + 1) * self.size]


def random_order(count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    """The numbers from 0 to `count` − 1, in an order that follows from seed and epoch."""
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + epoch + 1)
    return torch.randperm(count, generator=generator, device=device)


@contextlib.contextmanager
def composed_once(model: nn.Sequential) -> Iterator[None]:
    """Within it W = Λ B, and before a sine ω₀ W and ω₀ b, are computed once a step, for all its chunks.

    sin(ω₀ (W x + b)) = sin((ω₀ W) x + ω₀ b), where W has far fewer values than a chunk's activations. At the end the
    gradients with respect to these products go on to the parameters.
    """
    products, leaves = [], []
    forwards: list[tuple[nn.Module, Callable[..., Tensor]]] = []
    modules = [*model, None]
    for layer, activation in zip(modules, modules[1:]):
        omega = activation.omega if isinstance(activation, Sine) else 1.0
        if isinstance(layer, FourierReparamLinear) or isinstance(layer, nn.Linear) and isinstance(activation, Sine):
            own = [omega * parameter for parameter in (layer.weight, layer.bias)]
            weight, bias = (product.detach().requires_grad_(product.requires_grad) for product in own)
            products += own
            leaves += [weight, bias]
            forwards.append((layer, functools.partial(F.linear, weight=weight, bias=bias)))
            if isinstance(activation, Sine):
                forwards.append((activation, torch.sin))
    for module, forward in forwards:
        module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module, _ in forwards:
            del module.forward
    used = [(product, leaf.grad) for product, leaf in zip(products, leaves) if leaf.grad is not None]
    if used:
        torch.autograd.backward([product for product, _ in used], [gradient for _, gradient in used])


def parameter_groups(model: nn.Module, lr: float, hidden_lr: float = 1.0,
                     network: nn.Module | None = None) -> list[dict[str, Any]]:
    """The parameters of a model for an optimizer, in a group for each learning rate.

    Args:
        lr: the learning rate of all parameters but the weights of the hidden-to-hidden layers.
        hidden_lr: the factor on `lr` for those: the coefficients of FR layers, the weights of ordinary ones.
        network: the part of the model that has these layers; the model itself where not given. Its linear and FR layers
            come in `modules()` in the order in which they are applied.
    """
    if hidden_lr == 1:  # Adam takes longer for two groups than for one
        return [{"params": list(model.parameters()), "lr": lr}]
    linear = [layer for layer in (network or model).modules() if isinstance(layer, (nn.Linear, FourierReparamLinear))]
    hidden = [layer.weight if isinstance(layer, nn.Linear) else layer.coefficients for layer in linear[1:-1]]
    others = [parameter for parameter in model.parameters() if not any(parameter is weight for weight in hidden)]
    return [{"params": others, "lr": lr}, {"params": hidden, "lr": lr * hidden_lr}]


def say_how_long(runs: list[Run], args: argparse.Namespace, operations: Callable[[dict[str, Any]], float]) -> None:
    """Before trainings on a CPU that are not --quick, say about how many hours they take.

    Args:
        operations: maps a run's config to the floating-point operations of matrix products that take as long.
    """
    left = [run for run in runs if run.device == "cpu" and (args.force or not run.finished())]
    if args.size == "quick" or not left:
        return
    a, b = torch.rand(2, 1024, 1024)
    seconds = min(timeit.repeat(lambda: a @ b, number=1, repeat=6)) / (2 * 1024**3)
    hours = sum(operations(run.config) for run in left) * seconds / 3600
    if hours > 0.1:
        print(f"training on the CPU takes about {hours:.1f} hours here; --quick takes up to two minutes")


def fitting_operations(network: dict[str, Any], points: int) -> float:
    """What `say_how_long` needs, for a network of `build_inr` that goes through `points` points in all its steps."""
    # Forward and the two gradients, by the input and by the weight, take 2 operations each, a weight and point.
    # Activations, Adam and the rest take about as long again.
    return 2 * 6 * points * network["hidden_features"] ** 2 * network["hidden_layers"]
