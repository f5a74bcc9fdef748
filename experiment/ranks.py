"""The ranks that torchrun starts, and the store through which they speak to each other."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store


def torchrun() -> bool:
    """Whether torchrun started this process, as one rank of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def first_rank() -> bool:
    """Whether this is the rank that draws and prints; so is a process without torchrun."""
    return not torchrun() or os.environ["RANK"] == "0"


@functools.cache
def store() -> Store | None:
    """The key-value store that the ranks of one torchrun share; None without torchrun. Returns once all ranks ask."""
    if not torchrun():
        return None
    from torch.distributed import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    every, rank, ranks = next(rendezvous("env://"))
    # With --max-restarts the store outlives the ranks, and each node counts its restarts for itself. So rank 0 makes a
    # prefix that no process before it had, and lists who has come to it: a rank not in the list has found an old one.
    me = str(every.add("processes", 1))
    if rank == 0:
        every.set("prefix", me)
        ours = PrefixStore(me, every)
        others = [f"rank{other}" for other in range(1, ranks)]
        while not ours.check(others):
            time.sleep(0.1)
        ours.set("members", json.dumps([ours.get(other).decode() for other in others]))
        return ours
    while True:
        ours = PrefixStore(every.get("prefix").decode(), every)
        ours.set(f"rank{rank}", me)
        if ours.check(["members"]) and me in json.loads(ours.get("members")):
            return ours
        time.sleep(0.1)


def wait_for(ours: Store, *keys: str) -> None:
    """Wait until all keys are set; if rank 0 ends before that, end too and leave it to rank 0 to say why."""
    while not ours.check(list(keys)):
        if ours.check(["rank 0 ended"]):
            raise SystemExit(0)
        time.sleep(0.1)


def rank_0_first(main: Callable[[], None]) -> Callable[[], None]:
    """Let the ranks above 0 call `main` only when rank 0 has come to its sweep in it; else they end when rank 0 ends.

    So a mistake in the options is reported once, a data set fetched once, and what needs no sweep done by rank 0 alone.
    Without torchrun it changes nothing.
    """
    @functools.wraps(main)
    def in_ranks() -> None:
        ours = store()
        if ours is None:
            return main()
        end_with(os.getppid())
        if not first_rank():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once; rank 0 says how to go on
            wait_for(ours, "sweeping")
            return main()
        try:
            main()
        finally:
            with suppress(RuntimeError):  # of a torchrun that has ended before
                ours.set("rank 0 ended", "")
    return in_ranks


def end_with(parent: int) -> None:
    """End this process when the one of that number, which started it, has ended.

    A killed parent cannot end its workers, and one that is started again would write the same files beside them.
    """
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
