"""What every training needs around its loop: the seed, blocks of steps with checkpoints between, captured steps."""

import argparse
import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from experiment import cli
from experiment.device import Stopwatch, choose_device, set_precision
from experiment.errors import UserError
from experiment.ranks import rank_0_first
from experiment.records import Run
from experiment.sweep import progress

LONGEST_BLOCK = 100  # steps between two looks at the loss


def run(main: Callable[[], None]) -> None:
    """Call a script's `main` as `cli.run` does, under torchrun in all its ranks."""
    cli.run(rank_0_first(main))


def prepare(args: argparse.Namespace, seed: int,
            one_thread: bool) -> tuple[torch.device, contextlib.AbstractContextManager]:
    """Set the seed, and return the device and the autocast context that the options ask for.

    Args:
        one_thread: on a CPU, as where the other cores have runs of their own. It gives a run the same bits whatever
            their number.
    """
    device = choose_device(args.device)
    autocast = set_precision(args.precision, device)
    if one_thread and device.type == "cpu":
        torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    torch.manual_seed(seed)
    return device, autocast


def blocks(run: Run, args: argparse.Namespace, clock: Stopwatch, losses: Tensor, state: dict[str, Any],
           merit: Callable[[float], str], stop_every: Sequence[int] = ()) -> Iterator[range]:
    """The steps of a training, in blocks after each of which the progress is shown and the loss has to be finite.

        for block in training.blocks(run, args, clock, losses, state, merit):
            with clock:
                for step in block:
                    ...  # forward, loss, backward, step; losses[step] = loss.detach()

    A run that was stopped goes on from its last checkpoint, which is loaded into `state` when the loop begins.

    Args:
        clock: counts the seconds of training.
        losses: (steps,), on the device; the training's length, and the loss of each step once it is done.
        state: what a checkpoint keeps beside `clock` and `losses`: tensors, and whatever has a state_dict. Read at
            each checkpoint, so that an entry may be replaced during the training.
        merit: the text of the progress bar, from the mean loss of the last block.
        stop_every: numbers of steps of which no block crosses a multiple.
    """
    steps = len(losses)
    # Often enough for the eye, but no shorter than the graph that CUDAGraphStep captures.
    show_every = min(LONGEST_BLOCK, max(CUDAGraphStep.TOGETHER, steps // 100))
    state["clock"], state["losses"] = clock, losses
    step = run.restore(**state)
    with progress(steps, step, str(run)) as bar:
        while step < steps:
            stop = min(steps, *(step - step % every + every
                                for every in (show_every, args.checkpoint_every, *stop_every)))
            yield range(step, stop)
            loss = losses[step:stop].mean().item()
            if not math.isfinite(loss):
                raise UserError(f"the training has diverged, the loss is {loss} at step {stop}; "
                                "a smaller --lr may help")
            bar.update(stop - step)
            bar.set_postfix_str(merit(loss))
            step = stop
            if step % args.checkpoint_every == 0 and step < steps:
                run.checkpoint(step, **state)


def peak_memory(device: torch.device) -> str:
    """The most memory that this run has had on a GPU, for its result line; nothing on a CPU."""
    return f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else ""


def random_order(count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    """The numbers from 0 to `count` − 1, in an order that follows from seed and epoch: a resumed epoch has its own."""
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + epoch + 1)
    return torch.randperm(count, generator=generator, device=device)


class CUDAGraphStep:
    """`CUDAGraphStep(step, device)(n)` does n training steps; on CUDA as replays of a captured graph.

    A network of the paper's size is bound on a GPU by the time Python needs to launch its kernels. There the first
    steps run as usual, on a side stream; then 20 steps, and one for the remainder, are captured, and from there on 20
    steps are one launch. The kernels are the same, and so are the numbers. `step` must therefore do everything on the
    device, at fixed addresses: no .item(), no Python number that changes from step to step.

    An error during a capture can leave the allocator as if it went on; no step of this process is captured after it.
    """

    capture_failed = False

    WARM_UP = 3  # as many as the capture of an autograd graph needs before it (torch.cuda.graph)
    TOGETHER = 20

    def __init__(self, step: Callable[[], None], device: torch.device):
        self.step = step
        self.device = device
        self.warm_up = self.WARM_UP
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(self, count: int) -> None:
        if self.device.type != "cuda" or CUDAGraphStep.capture_failed:
            for _ in range(count):
                self.step()
            return
        eager = min(count, self.warm_up)
        if eager:
            stream = torch.cuda.Stream(self.device)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream), warnings.catch_warnings():
                # It warns that an optimizer made to be captured is not: these few steps are meant to run so.
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
                try:
                    with torch.cuda.graph(self.graphs[size], pool=pool):
                        for _ in range(size):
                            self.step()
                except BaseException:
                    CUDAGraphStep.capture_failed = True
                    raise
            for _ in range(times):
                self.graphs[size].replay()
