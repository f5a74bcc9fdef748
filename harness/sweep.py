"""Train the runs that have no finished record: one by one, on the cores of a CPU at once, or over torchrun's ranks."""

import argparse
import atexit
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from typing import Any, NamedTuple

import torch

from data.errors import UserError, describe
from harness.device import cpu_count, first_rank, torchrun
from harness.files import check_writable
from harness.records import Run


class Job(NamedTuple):
    """A run, and what trains it: writes its record and returns the line that sums it up. Both can be pickled."""

    run: Run
    train: Callable[[], str]


def in_ranks(main: Callable[[], None]) -> Callable[[], None]:
    """A script's `main` for torchrun: the ranks above 0 begin it when rank 0 has come to its sweep, or end if it ends.

    So a mistake in the options is reported once and a data set fetched once. Without torchrun it changes nothing.
    """
    @functools.wraps(main)
    def joined() -> None:
        if torchrun():
            _end_with(os.getppid())
            torch.distributed.init_process_group("gloo", timeout=timedelta(days=365))  # no run takes longer
            atexit.register(torch.distributed.destroy_process_group)  # else its threads abort the process at its end
        if not first_rank():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends it at once; rank 0 says how to go on
            sys.stdout = open(os.devnull, "w")  # rank 0 says it all, but for what _attempt prints
            _gather(None)
        main()
    return joined


def sweep(*stages: list[Job], args: argparse.Namespace, parallel: bool) -> None:
    """Train every job whose run is not finished and print the line that it returns.

    A run that fails does not stop the others; at the end the failures are raised as one UserError.
    Under torchrun every rank calls this once, with the same jobs, and it returns in rank 0 alone: the others end here.

    Args:
        stages: the jobs. Those of a stage begin when the stage before is done, whose results they need.
        args: the options: with `force` finished runs are trained too, with `debug` every failure has its traceback.
        parallel: on a CPU, train as many at a time as there are processors, on one thread each.
    """
    for folder in dict.fromkeys([args.figures, *(job.run.path("").parent for jobs in stages for job in jobs)]):
        check_writable(folder)
    finished = [[not args.force and job.run.finished() for job in jobs] for jobs in stages]
    if torchrun() and first_rank():
        _gather(None)  # that of `in_ranks`: nothing was wrong, the others load the data too
    attempt = functools.partial(_attempt, args=args, one_thread=parallel)
    failures: list[str] = []
    for jobs, of_jobs in zip(stages, _gather(finished)[0]):  # rank 0's, of a moment when none had begun to train
        for job, is_finished in zip(jobs, of_jobs):
            if is_finished:
                print(f"{job.run}: finished before, {job.run.path('.json')}")
        jobs = [job for job, is_finished in zip(jobs, of_jobs) if not is_finished]
        in_parallel = parallel and not torchrun() and all(job.run.device == "cpu" for job in jobs)
        processes = min(cpu_count(), len(jobs)) if in_parallel else 1
        if processes > 1 or torchrun():  # the longest first: then none is left alone with a long one at the end
            jobs.sort(key=lambda job: [kind not in job.run.path(".json").name for kind in ("+fr", "sin")])
        if torchrun():
            jobs = jobs[torch.distributed.get_rank()::torch.distributed.get_world_size()]
        outcomes = _in_processes(processes, jobs, attempt) if processes > 1 else [attempt(job) for job in jobs]
        failures += [failure for of_rank in _gather(outcomes) for failure in of_rank if failure]
    if not first_rank():
        raise SystemExit(0)  # any other status, and torchrun would end rank 0 before it has reported the failures
    if failures:
        raise UserError("; ".join(failures))


def _gather(value: Any) -> list:
    """The values of all ranks, in all of them; where a rank has ended before, the others end too."""
    if not torchrun():
        return [value]
    values = [None] * torch.distributed.get_world_size()
    try:
        torch.distributed.all_gather_object(values, value)
    except RuntimeError as error:  # its connection is closed
        if first_rank():
            raise UserError("a rank has ended early; the same command goes on with what is not finished") from error
        raise SystemExit(0) from None  # rank 0 or torchrun says why
    return values


def _attempt(job: Job, args: argparse.Namespace, one_thread: bool) -> str:
    """Train a run and print its line. Returns what went wrong, empty if nothing did."""
    threads = torch.get_num_threads()
    if one_thread:
        torch.set_num_threads(1)  # also for a run alone: its bits do not depend on how many there are
    try:
        with job.run.locked():
            if args.force:
                job.run.discard_checkpoint()  # the record stays until there is a new one
            done = not args.force and job.run.finished()
            line = "another process has finished it" if done else job.train()
    except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
        # On the CPU torch says by an ordinary RuntimeError that it has no memory.
        expected = isinstance(error, (UserError, OSError, MemoryError, torch.OutOfMemoryError))
        if args.debug or not (expected or "allocate memory" in str(error)):
            traceback.print_exception(error)
        return f"{job.run}: {describe(error)}"
    finally:
        torch.set_num_threads(threads)
    clear_line = "\r\033[K" if sys.stdout.isatty() else ""  # the bar of another process may stand there
    print(f"{clear_line}{job.run}: {line}", file=sys.stdout if first_rank() else sys.__stdout__, flush=True)
    return ""


def _in_processes(count: int, jobs: list[Job], attempt: Callable[[Job], str]) -> list[str]:
    """Train the jobs in this process and in `count` - 1 workers; each takes the next one when it is free."""
    sys.stdout.flush()  # what was printed before comes before the lines of the workers
    waiting, outcomes = iter(range(len(jobs))), [""] * len(jobs)
    # Not forked: a forked process inherits torch's threads in a broken state. A pool each, which ends with its worker.
    pools = [ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _end_with, (os.getpid(),))
             for _ in range(count - 1)]

    def hand_out(pool: ProcessPoolExecutor, begun: Future) -> None:
        if begun.exception():  # else it has imported torch
            return
        for i in waiting:
            try:
                outcomes[i] = pool.submit(attempt, jobs[i]).result()
            except BrokenProcessPool:
                outcomes[i] = f"{jobs[i].run}: its process was killed; was there enough memory?"
                return
            except Exception as error:  # noqa: BLE001 - as in _attempt
                outcomes[i] = f"{jobs[i].run}: {describe(error)}"

    with ThreadPoolExecutor(count) as threads:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the workers inherit it: Ctrl-C reaches them too
        begun = [pool.submit(os.getpid) for pool in pools]
        signal.signal(signal.SIGINT, handler)
        try:
            others = [threads.submit(hand_out, *pair) for pair in zip(pools, begun)]
            for i in waiting:
                outcomes[i] = attempt(jobs[i])
            for up, other in zip(begun, others):
                if up.done():  # else it has no job, and there is none left
                    other.result()
        finally:  # they are idle, or Ctrl-C was pressed
            for worker in multiprocessing.active_children():
                worker.terminate()
            for pool in pools:
                pool.shutdown()
    return outcomes


def _end_with(parent: int) -> None:
    """End this process soon after its parent: the same command, given again, would train the same run beside it."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
