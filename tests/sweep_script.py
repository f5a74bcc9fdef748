"""A script of two stages for test_sweep.py, the second from the first's records, as dvgo.py's.

    python sweep_script.py FOLDER COARSE,... FINE,...

A run's name says what it does: "kill…" kills its process the first time, "wait…" goes on when that has happened, "fail"
and "bug" raise errors, "long" takes a minute. FOLDER/log has a line for each training that begins or is finished.
"""

import os
import signal
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from data.errors import UserError
from harness.device import first_rank
from harness.sweep import Job, in_ranks, sweep

FOLDER = Path(sys.argv[1])


def log(*words):
    with open(FOLDER / "log", "a") as file:
        file.write(" ".join(words) + "\n")


class TinyRun(NamedTuple):
    name: str
    device: str = "cpu"

    def __str__(self):
        return f"run {self.name}"

    def path(self, suffix):
        return FOLDER / (self.name + suffix)

    def finished(self):
        if self.path(".json").exists() and not self.path(".json").read_text():
            raise UserError(f"{self} is damaged")
        return self.path(".json").exists()

    def locked(self):
        return nullcontext()

    def discard_checkpoint(self):
        self.path(".ckpt").unlink(missing_ok=True)


def train(run, needs):
    log("began", run.name)
    assert all(other.finished() for other in needs if other.name != "fail")
    if run.name.startswith("kill") and not run.path(".ckpt").exists():
        run.path(".ckpt").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    while run.name.startswith("wait") and not list(FOLDER.glob("kill*.ckpt")):
        time.sleep(0.05)
    if run.name == "fail":
        raise UserError("no such\nthing")
    if run.name == "bug":
        raise ZeroDivisionError("a bug")
    time.sleep(60 if run.name.startswith("long") else 0.2)
    rank = os.environ.get("RANK", "none")
    run.path(".json").write_text(rank)
    log("finished", run.name)
    return f"by rank {rank}"


@in_ranks
def main():
    log("loaded")
    coarse, fine = ([TinyRun(name) for name in names.split(",") if name] for names in sys.argv[2:4])
    sweep([Job(run, partial(train, run, needs=[])) for run in coarse],
          [Job(run, partial(train, run, needs=coarse)) for run in fine], parallel=True,
          args=SimpleNamespace(force=False, debug=False, figures=FOLDER))
    assert first_rank()
    print("the table")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
