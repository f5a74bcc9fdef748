"""Train the runs that have no finished record, several at a time where the processors allow it."""

import argparse
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import torch
from tqdm import tqdm

from experiment.cli import UserError, describe
from experiment.records import Run, check_writable

Train = Callable[[Run, argparse.Namespace], str]

_bar_position = 0


def progress(total: int, done: int, label: str) -> tqdm:
    """A progress bar for one run, on a line of its own among those of the other processes."""
    return tqdm(total=total, initial=done, desc=label, position=_bar_position, leave=False, dynamic_ncols=True,
                disable=None)


def sweep(train: Train, runs: list[Run], args: argparse.Namespace, workers: int) -> None:
    """Call `train` for every unfinished run and print the line that it returns.

    A run that fails is reported and does not stop the others; at the end the failures are raised as one UserError.

    Args:
        train: trains a run, writes its record and returns its result line; a function of the script itself.
        runs: what to train, in order.
        args: the options, handed to `train`.
        workers: how many runs to train at a time, each in a process of its own where there are several.
    """
    for run in runs:
        check_writable(run.path(".json").parent)
    check_writable(args.figures)
    unfinished = []
    for run in runs:
        if args.force:
            run.path(".ckpt").unlink(missing_ok=True)  # the record stays until there is a new one
        elif run.finished():
            print(f"{run}: finished before, {run.path('.json')}")
            continue
        unfinished.append(run)

    failures = []
    workers = min(workers, len(unfinished))
    for run, outcome in _in_turn(train, unfinished, args) if workers < 2 else _pooled(train, unfinished, args, workers):
        if isinstance(outcome, Exception):
            failures.append(f"{run}: {describe(outcome)}")
            # On the CPU torch says by an ordinary RuntimeError that it has no memory.
            expected = isinstance(outcome, (UserError, OSError, MemoryError, torch.OutOfMemoryError))
            if args.debug or not (expected or "allocate memory" in str(outcome)):
                traceback.print_exception(outcome)
        else:
            clear_line = "\r\033[K" if sys.stdout.isatty() else ""  # a bar of another process may stand there
            tqdm.write(f"{clear_line}{run}: {outcome}")
    if failures:
        raise UserError("; ".join(failures))


def _in_turn(train: Train, runs: list[Run], args: argparse.Namespace):
    for run in runs:
        try:
            yield run, train(run, args)
        except Exception as error:
            yield run, error


def _pooled(train: Train, runs: list[Run], args: argparse.Namespace, workers: int):
    context = multiprocessing.get_context("spawn")  # a forked process inherits torch's threads in a broken state
    positions = context.Value("i", 0)
    with ProcessPoolExecutor(workers, context, _start_worker, (context.RLock(), positions)) as pool:
        # Ctrl-C reaches the whole process group. The processes started here inherit that it is ignored, and are
        # ended below once this one has taken it.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            # The longest first, so that no process is left alone with one at the end.
            longest_first = sorted(runs, key=lambda run: ("+fr" not in run.mode, "sin" not in run.mode))
            futures = {pool.submit(train, run, args): run for run in longest_first}
        finally:
            signal.signal(signal.SIGINT, handler)
        try:
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except BrokenProcessPool:
                    yield futures[future], UserError("its process was killed; was there enough memory?")
                except Exception as error:
                    yield futures[future], error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _start_worker(lock, positions) -> None:
    global _bar_position
    tqdm.set_lock(lock)
    with positions.get_lock():
        _bar_position = positions.value
        positions.value += 1

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    # A killed parent cannot end its workers, and one that is started again would write the same files beside them.
    threading.Thread(target=end_with_parent, daemon=True).start()
