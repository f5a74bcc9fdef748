"""Train the runs that have no finished record, several at a time where the processors allow it.

Processes share the runs by a counter: whoever is free takes the next one. They are the ranks of torchrun, over the GPUs
of one machine or of several that have the folders in common; without torchrun, on a CPU, this process and others that
it starts beside itself.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable

import torch
from torch.distributed import FileStore, HashStore, Store
from tqdm import tqdm

from experiment.device import cpu_count, matmul_rate
from experiment.errors import UserError, describe
from experiment.files import check_writable
from experiment.ranks import end_with, first_rank, store, wait_for
from experiment.records import Run

Train = Callable[[Run, argparse.Namespace], str]

VISIBLE_AFTER = 60  # seconds until the files of another machine must be seen in a shared folder

_bar_position = 0


def progress(total: int, done: int, label: str) -> tqdm:
    """A progress bar for one run, on a line of its own among those of the other processes; under torchrun for rank 0.

    A run that was stopped before says first from where it goes on.
    """
    if done:
        tqdm.write(f"{label}: going on after step {done:,} of {total:,}")
    return tqdm(total=total, initial=done, desc=label, position=_bar_position, leave=False, dynamic_ncols=True,
                disable=None if first_rank() else True)


def unfinished(runs: list[Run], args: argparse.Namespace) -> list[Run]:
    """The runs that a sweep will train."""
    return [run for run in runs if args.force or not run.finished()]


def slow_runs(runs: list[Run], args: argparse.Namespace) -> list[Run]:
    """The runs that a sweep will train on a CPU at full size, so that a script says how long they take; in rank 0."""
    return [] if args.quick or not first_rank() or runs[0].device != "cpu" else unfinished(runs, args)


def say_how_long(runs: list[Run], args: argparse.Namespace, points: Callable[[dict], int]) -> None:
    """Before a sweep on a CPU that is not --quick, say how many hours it takes at least.

    As many as if all of it ran at the rate of a large matrix product.

    Args:
        points: from a run's config, the number of points that it goes through in all its steps.
    """
    operations = 0.0
    for run in slow_runs(runs, args):
        network = run.config["network"]
        # Forward, and the gradients by the input and by the weight: 2 operations a weight, a point and each.
        operations += 6 * points(run.config) * network["hidden_features"] ** 2 * network["hidden_layers"]
    hours = operations / matmul_rate(torch.device("cpu")) / 3600 if operations else 0.0
    if hours > 0.1:
        print(f"training on the CPU takes at least {hours:.1f} hours here; --quick takes about a minute")


def sweep(train: Train, stages: list[list[Run]], args: argparse.Namespace, parallel: bool) -> None:
    """Call `train` for every unfinished run and print the line that it returns.

    A run that fails is reported and does not stop the others; at the end the failures are raised as one UserError.

    Under torchrun every rank calls this once, with the same runs, and it returns in rank 0 alone: the others end here.
    What was finished is known from the records alone, so that a sweep that was killed can be started again, on any
    number of ranks.

    Args:
        train: trains a run, writes its record and returns its result line; a function of the script itself.
        stages: what to train. The runs of a stage begin when those of the one before are done, whose results they need.
        args: the options, handed to `train`.
        parallel: on a CPU, train as many at a time as there are processors, each in a process of its own; of no
            meaning under torchrun.
    """
    every = [run for runs in stages for run in runs]
    for folder in dict.fromkeys([args.figures, *(run.path(".json").parent for run in every)]):
        check_writable(folder)
    if first_rank():
        unfinished(every, args)  # a damaged record is an error now, not when the run is taken
        if ranks := store():
            ranks.set("sweeping", "")
    failures = [failure for number, runs in enumerate(stages)
                for failure in _stage(f"stage {number}", train, runs, args, parallel)]
    if not first_rank():
        raise SystemExit(0)  # any other status, and torchrun would end rank 0 before it has reported the failures
    if failures:
        raise UserError("; ".join(failures))


def _stage(name: str, train: Train, runs: list[Run], args: argparse.Namespace, parallel: bool) -> list[str]:
    """Train the runs of one stage; a line for each that failed, in all ranks the same."""
    # Where several share them, the longest first: then none is left alone with a long one at the end.
    longest_first = sorted(runs, key=lambda run: ("+fr" not in run.mode, "sin" not in run.mode))
    if ranks := store():
        _take(ranks, name, train, longest_first, args)
        wait_for(ranks, *(f"{name} {run}" for run in runs))
        return _failures(ranks, name, runs) or _unseen(runs)
    left = unfinished(runs, args)
    if parallel and all(run.device == "cpu" for run in left) and (processes := min(cpu_count(), len(left))) > 1:
        return _in_processes(processes, name, train, longest_first, args)
    alone = HashStore()
    _take(alone, name, train, runs, args)
    return _failures(alone, name, runs)


def _take(ours: Store, name: str, train: Train, runs: list[Run], args: argparse.Namespace) -> None:
    """Take the next run that no process has taken, train it, tell what came of it; until all are taken."""
    while (taken := ours.add(f"{name} taken", 1)) <= len(runs):
        run = runs[taken - 1]
        ours.set(f"{name} {run}", _attempt(train, run, args))


def _attempt(train: Train, run: Run, args: argparse.Namespace) -> str:
    """Train a run that is not finished and print its line. Returns what went wrong, empty if nothing did."""
    try:
        if args.force:
            run.path(".ckpt").unlink(missing_ok=True)  # the record stays until there is a new one
        finished = not args.force and run.finished()
        outcome = f"finished before, {run.path('.json')}" if finished else train(run, args)
    except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
        # On the CPU torch says by an ordinary RuntimeError that it has no memory.
        expected = isinstance(error, (UserError, OSError, MemoryError, torch.OutOfMemoryError))
        if args.debug or not (expected or "allocate memory" in str(error)):
            traceback.print_exception(error)
        return f"{run}: {describe(error)}"
    clear_line = "\r\033[K" if sys.stdout.isatty() else ""  # a bar of another process may stand there
    tqdm.write(f"{clear_line}{run}: {outcome}")
    sys.stdout.flush()  # this process may be ended at any moment
    return ""


def _failures(ours: Store, name: str, runs: list[Run]) -> list[str]:
    """A line for each run that failed, or whose process was killed before it could tell."""
    killed = "its process was killed; was there enough memory?"
    outcomes = [ours.get(key).decode() if ours.check([key := f"{name} {run}"]) else f"{run}: {killed}" for run in runs]
    return [outcome for outcome in outcomes if outcome]


def _unseen(runs: list[Run]) -> list[str]:
    """An error if another machine's records do not appear on this one."""
    deadline = time.monotonic() + VISIBLE_AFTER
    while unseen := [run for run in runs if not run.finished()]:
        if time.monotonic() > deadline:
            return [(f"{unseen[0].path('.json')} was written on another machine and is not seen on this one; "
                     "--results must be a folder that all of them share")]
        time.sleep(1)
    return []


def _in_processes(count: int, name: str, train: Train, runs: list[Run], args: argparse.Namespace) -> list[str]:
    """Train the runs in this process and in others that it starts, `count` in all; a line for each that failed."""
    context = multiprocessing.get_context("spawn")  # a forked process inherits torch's threads in a broken state
    lock = context.RLock()
    tqdm.set_lock(lock)
    sys.stdout.flush()  # what was printed before comes before the lines of the others
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/store"  # not a port, which others could reach
        others = [context.Process(target=_help, args=(lock, position, os.getpid(), file, name, train, runs, args),
                                  daemon=True) for position in range(1, count)]
        # Ctrl-C reaches the whole process group. The processes started here inherit that it is ignored, and are ended
        # below once this one has taken it.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for process in others:
                process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        try:
            ours = FileStore(file)
            _take(ours, name, train, runs, args)
            while not ours.check([f"{name} {run}" for run in runs]) and any(other.is_alive() for other in others):
                time.sleep(0.1)
            return _failures(ours, name, runs)
        finally:
            with lock:  # a process that ended while it prints would keep it
                for process in others:
                    process.terminate()
            for process in others:
                process.join()


def _help(lock, position: int, parent: int, file: str, *taking) -> None:
    """What a process that another has started does: it takes runs beside it."""
    global _bar_position
    _bar_position = position
    tqdm.set_lock(lock)
    end_with(parent)
    _take(FileStore(file), *taking)
