"""Train the runs that have no finished record, several at a time where the processors allow it.

Under torchrun its ranks share the runs, over the GPUs of one machine or of several that have the folders in common.
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from experiment.device import cpu_count, matmul_rate
from experiment.errors import UserError, describe
from experiment.files import check_writable
from experiment.ranks import first_rank, store, wait_for
from experiment.records import Run

if TYPE_CHECKING:
    from torch.distributed import Store

Train = Callable[[Run, argparse.Namespace], str]

VISIBLE_AFTER = 60  # seconds until the files of another machine must be seen in a shared folder

_bar_position = 0
_numbers = itertools.count()  # of the stages of this process, the same in all ranks


def progress(total: int, done: int, label: str) -> tqdm:
    """A progress bar for one run, on a line of its own among those of the other processes; of ranks, the first's.

    Of a run that was stopped before it says first from where it goes on.
    """
    if done:
        tqdm.write(f"{label}: going on after step {done:,} of {total:,}")
    return tqdm(total=total, initial=done, desc=label, position=_bar_position, leave=False, dynamic_ncols=True,
                disable=None if first_rank() else True)


def unfinished(runs: list[Run], args: argparse.Namespace) -> list[Run]:
    """The runs that a sweep will train."""
    return [run for run in runs if args.force or not run.finished()]


def slow_runs(runs: list[Run], args: argparse.Namespace) -> list[Run]:
    """Those that it will train on a CPU without --quick, of which a script says how long they take, in one rank."""
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

    Under torchrun every rank calls this with the same runs. A free rank takes the next run, by a counter that the
    ranks share, trains it in its own process, and prints its line. All ranks return when all runs are done; if one has
    failed, rank 0 raises and the others end. What was finished is known from the records alone, so that a sweep that
    was killed can be started again, on any number of ranks.

    Args:
        train: trains a run, writes its record and returns its result line; a function of the script itself.
        stages: what to train. The runs of a stage begin when those of the one before are done, whose results they need.
        args: the options, handed to `train`.
        parallel: on a CPU, train as many at a time as there are processors, each in a process of its own; of no
            meaning under torchrun.
    """
    check_writable(args.figures)
    failures = [failure for runs in stages for failure in _stage(train, runs, args, parallel)]
    if failures:
        if not first_rank():
            raise SystemExit(0)  # any other status, and torchrun would end rank 0 before it has reported them
        raise UserError("; ".join(failures))


def _stage(train: Train, runs: list[Run], args: argparse.Namespace, parallel: bool) -> list[str]:
    """Train the runs of one stage; a line for each that failed, in all ranks the same."""
    for run in runs:
        check_writable(run.path(".json").parent)
    ours, name = store(), f"stage {next(_numbers)}"
    if ours is None:
        chosen = list(_begun(runs, args))
        on_cpu = all(run.device == "cpu" for run in chosen)
        workers = min(cpu_count() if parallel and on_cpu else 1, len(chosen))
        outcomes = _in_turn(train, chosen, args) if workers < 2 else _pooled(train, chosen, args, workers)
    else:
        _begin(runs, args, ours)
        outcomes = _in_turn(train, _begun(_taken(_longest_first(runs), ours, name), args), args)

    failures = []
    for run, outcome in outcomes:
        if isinstance(outcome, Exception):
            failures.append(f"{run}: {describe(outcome)}")
        else:
            clear_line = "\r\033[K" if sys.stdout.isatty() else ""  # a bar of another process may stand there
            tqdm.write(f"{clear_line}{run}: {outcome}")
            sys.stdout.flush()  # torchrun may end this rank at any moment
    return failures if ours is None else _end(failures, runs, ours, name)


def _failed(error: Exception, args: argparse.Namespace) -> Exception:
    """Show where an error comes from that nobody expects, and drop its traceback, which keeps the run's memory."""
    # On the CPU torch says by an ordinary RuntimeError that it has no memory.
    expected = isinstance(error, (UserError, OSError, MemoryError, torch.OutOfMemoryError))
    if args.debug or not (expected or "allocate memory" in str(error)):
        traceback.print_exception(error)
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _begun(runs: Iterable[Run], args: argparse.Namespace) -> Iterator[Run]:
    """Those to train, of which --force makes a new start; says of the others that they are finished."""
    for run in runs:
        if args.force:
            run.path(".ckpt").unlink(missing_ok=True)  # the record stays until there is a new one
        elif run.finished():
            print(f"{run}: finished before, {run.path('.json')}", flush=True)
            continue
        yield run


def _longest_first(runs: list[Run]) -> list[Run]:
    # So that no process is left alone with a long one at the end.
    return sorted(runs, key=lambda run: ("+fr" not in run.mode, "sin" not in run.mode))


def _begin(runs: list[Run], args: argparse.Namespace, ours: "Store") -> None:
    """Rank 0 looks at the records and then lets the other ranks start."""
    _end_with_torchrun()
    if first_rank():
        if not args.force:
            for run in runs:
                run.finished()  # a damaged record is an error now, not when the run is taken
        ours.set("sweeping", "")


def _taken(runs: list[Run], ours: "Store", name: str) -> Iterator[Run]:
    """The runs that this rank takes, one after another, until the ranks have taken all."""
    while (taken := ours.add(f"{name} taken", 1)) <= len(runs):
        yield runs[taken - 1]


def _end(failures: list[str], runs: list[Run], ours: "Store", name: str) -> list[str]:
    """Wait for all ranks; the failures of all of them."""
    ours.set(f"{name} failures {os.environ['RANK']}", json.dumps(failures))
    keys = [f"{name} failures {rank}" for rank in range(int(os.environ["WORLD_SIZE"]))]
    wait_for(ours, *keys)
    failures = [failure for key in keys for failure in json.loads(ours.get(key))]
    deadline = time.monotonic() + VISIBLE_AFTER
    while not failures and (unseen := [run for run in runs if not run.finished()]):
        if time.monotonic() > deadline:
            return [(f"{unseen[0].path('.json')} was written on another machine and is not seen on this one; "
                     "--results must be a folder that all of them share")]
        time.sleep(1)
    return failures


def _in_turn(train: Train, runs: Iterable[Run], args: argparse.Namespace):
    for run in runs:
        outcome: str | Exception
        try:
            outcome = train(run, args)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            outcome = _failed(error, args)
        yield run, outcome


def _pooled(train: Train, runs: list[Run], args: argparse.Namespace, workers: int):
    context = multiprocessing.get_context("spawn")  # a forked process inherits torch's threads in a broken state
    positions = context.Value("i", 0)
    with ProcessPoolExecutor(workers, context, _start_worker, (context.RLock(), positions)) as pool:
        # Ctrl-C reaches the whole process group. The processes started here inherit that it is ignored, and are
        # ended below once this one has taken it.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            futures = {pool.submit(train, run, args): run for run in _longest_first(runs)}
        finally:
            signal.signal(signal.SIGINT, handler)
        try:
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except BrokenProcessPool:
                    yield futures[future], UserError("its process was killed; was there enough memory?")
                except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
                    yield futures[future], _failed(error, args)
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

    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a process that was started by another
    _end_after(parent.join)


@functools.cache  # once, however many sweeps
def _end_with_torchrun() -> None:
    def wait(parent: int = os.getppid()) -> None:
        while os.getppid() == parent:
            time.sleep(1)

    _end_after(wait)


def _end_after(wait: Callable[[], None]) -> None:
    def end() -> None:
        wait()
        os._exit(1)

    # A killed parent cannot end its workers, and one that is started again would write the same files beside them.
    threading.Thread(target=end, daemon=True).start()
