"""The record of a run, its arrays and its checkpoint, each written atomically."""

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.errors import UserError, describe
from harness.cli import resolve
from harness.device import choose_device, set_precision
from harness.files import write_atomically
from harness.labels import own_settings

IDENTITY = ("experiment", "case", "options", "mode", "own", "seed", "config")  # of a record, as of a Run
KEYS = (*IDENTITY, "metrics", "time", "environment", "command")


def digest(*arrays: np.ndarray) -> str:
    """What a run's config says of its data: other data, another run."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def read_record(path: Path) -> dict[str, Any]:
    """The record in a file. UserError if it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(record, dict) and all(key in record for key in KEYS)):
            raise ValueError("a key is missing")
        if not all(isinstance(record[key], dict) for key in ("options", "own", "config", "metrics", "time",
                                                             "environment")):
            raise ValueError("a part has another form")
        return record
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({describe(error)}); delete it, or --force trains it again") from error


def read_arrays(path: Path, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The arrays in a file. UserError if they are damaged, or if one of `shapes` is another."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} has the shape {arrays[name].shape}, not {shape}")
        return arrays
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged zip raises nearly anything
        raise UserError(f"{path} is damaged ({describe(error)}); --force trains the run again") from error


def joined(settings: Mapping[str, Any]) -> str:
    """Settings as a part of a path: quick,batch=4096."""
    return ",".join(str(value) if name == "size" else f"{name}={value}" for name, value in settings.items())


@dataclass(frozen=True)
class Run:
    """One training run and the files that it leaves below `results`.

    Its path says what it is: <results>/<experiment>/<case>/<options>/<mode>,<own>-seed<k>. The path does not say the
    data and the script's defaults; `config` and the record do. A record or checkpoint of the same path with another
    `config` belongs to other data. Without --force it is neither used nor overwritten.

    Attributes:
        options: the settings that hold for all networks of the command and are not the script's default, by name.
        own: the settings of this network (lr, alpha, hidden_lr) that are not its default.
        config: every setting that decides the outcome, and the digest of the data.
    """

    results: Path
    experiment: str
    case: str
    mode: str
    seed: int
    config: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    device: str = "cpu"
    command: str = ""

    @property
    def folder(self) -> Path:
        """<experiment>/<case>/<options>, below results and below figures."""
        return Path(self.experiment, self.case, joined(self.options))

    @property
    def network(self) -> str:
        """The mode and the settings of its own, as --modes takes them."""
        return ",".join(filter(None, [self.mode, joined(self.own)]))

    def path(self, suffix: str) -> Path:
        """A file of the run: .json, .npz or .ckpt; its renderings lie in the folder without a suffix."""
        return self.results / self.folder / f"{self.network}-seed{self.seed}{suffix}"

    def __str__(self) -> str:
        return ", ".join(filter(None, [f"{self.experiment} {self.case} {self.mode} seed {self.seed}",
                                       own_settings(self.own)]))

    def _check_same(self, path: Path, found: dict[str, Any]) -> None:
        differing = [f"{key} {found.get(key)} where {self.config.get(key)} is asked for"
                     for key in {**self.config, **found} if found.get(key) != self.config.get(key)]
        if differing:
            raise UserError(f"{path} was made with {', '.join(differing)}; train it again with --force")

    def record(self) -> dict[str, Any] | None:
        """The finished record, or None. UserError if it is damaged or of other data."""
        path = self.path(".json")
        try:
            record = read_record(path)
        except FileNotFoundError:
            return None
        self._check_same(path, record["config"])
        return record

    def metric(self, name: str) -> Any:
        """One entry of the finished record's metrics. UserError if it is not there."""
        try:
            return (self.record() or {})["metrics"][name]
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.path('.json')} is damaged, its metrics have no {name}; "
                            "--force trains it again") from error

    def arrays(self, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
        """The bulk arrays beside the record. UserError if they are damaged, or if one of `shapes` is another."""
        return read_arrays(self.path(".npz"), **shapes)

    def finished(self) -> bool:
        """Whether record and arrays are there, and no checkpoint: --force leaves the old record in its place."""
        if self.path(".ckpt").exists():
            return False
        return self.record() is not None and self.path(".npz").exists()

    def finish(self, *, metrics: dict[str, Any], arrays: Mapping[str, np.ndarray], seconds: float,
               steps: int) -> None:
        """Write the arrays, then the record that makes the run finished; drop the checkpoint."""
        self.write({"time": {"train_seconds": round(seconds, 3), "steps_per_second": round(steps / seconds, 2)},
                    "environment": environment(self.device, self.precision), "command": self.command}, metrics, arrays)
        self.discard_checkpoint()

    def write(self, origin: dict[str, Any], metrics: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays and then the record; `origin` has its time, environment and command."""
        packed = io.BytesIO()
        np.savez(packed, **dict[str, Any](arrays))
        record = {**vars(self), "metrics": metrics, **{key: origin[key] for key in ("time", "environment", "command")}}
        text = json.dumps({key: record[key] for key in KEYS}, indent=1, allow_nan=False) + "\n"
        write_atomically(self.path(".npz.new"), packed.getvalue())  # on a full disk the old ones stay as they are
        self.path(".json").unlink(missing_ok=True)  # until the new one is there, no record speaks for the new arrays
        os.replace(self.path(".npz.new"), self.path(".npz"))
        write_atomically(self.path(".json"), text.encode())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training the run. If this process is killed, the system ends the lock.

        Raises:
            UserError: another process trains it.
        """
        path = self.path(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w") as file:
            try:
                import fcntl
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError("another process trains it now; wait for its end") from None
            except (ImportError, OSError):  # Windows, or a file system without locks
                pass
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()

    def checkpoint(self, step: int, **state: Any) -> None:
        """Save what `restore` needs to go on after `step` steps: tensors, and whatever has a state_dict."""
        packed = io.BytesIO()
        torch.save({"config": self.config, "step": step, "rng": torch.get_rng_state(),
                    "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
                    "state": {name: value if isinstance(value, torch.Tensor) else value.state_dict()
                              for name, value in state.items()}}, packed)
        write_atomically(self.path(".ckpt"), packed.getvalue())

    def discard_checkpoint(self) -> None:
        """Drop the checkpoint of a training that is finished, or that begins again."""
        self.path(".ckpt").unlink(missing_ok=True)

    def restore(self, **state: Any) -> int:
        """Load the last checkpoint into what it was saved from; the number of steps done, 0 if there is none."""
        path = self.path(".ckpt")
        try:
            # weights_only: tensors and plain values, and no code.
            saved = torch.load(path, map_location=self.device, weights_only=True)
            self._check_same(path, saved["config"])
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    value.copy_(saved["state"][name])
                else:
                    value.load_state_dict(saved["state"][name])
            step = saved["step"]
            torch.set_rng_state(saved["rng"].cpu())
            if saved["cuda_rng"] is not None and torch.cuda.is_initialized():
                torch.cuda.set_rng_state(saved["cuda_rng"].cpu())
            return step
        except FileNotFoundError:
            return 0
        except UserError:
            raise
        except Exception as error:  # a damaged zip or pickle raises nearly anything
            raise UserError(f"{path} is damaged; delete it to start the run again") from error


def planned_runs(args: argparse.Namespace, experiment: str, case: str, paper: Mapping[str, Mapping[str, Any]],
                 size: Mapping[str, Any], data: Mapping[str, Any]) -> list[Run]:
    """The runs of one case that the options ask for, seed after seed.

    Args:
        paper: the script's default settings, by mode.
        size: what --quick or --medium changes of them.
        data: what a config says of the data: its shape and digest.

    Raises:
        UserError: the device or the precision that the options ask for is not there.
    """
    device = choose_device(args.device).type
    set_precision(args.precision, torch.device(device))
    runs = []
    for seed in args.seeds:
        for chosen in args.modes:
            config, options, own = resolve(args, chosen, paper[chosen.mode], size)
            if device != "cpu":
                options = {**options, "device": device}
            runs.append(Run(args.results, experiment, case, chosen.mode, seed, {**config, **data}, options, own,
                            args.precision, device, args.command))
    return list({run.path(""): run for run in runs}.values())


def environment(device: str, precision: str) -> dict[str, str]:
    """What a record says of the machine and the code that made it."""
    here = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        # A copy without .git of its own must not name the commit of a repository around it, or of a hook's.
        own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return subprocess.run(["git", *arguments], cwd=here, text=True, check=True, capture_output=True,
                              env={**own, "GIT_CEILING_DIRECTORIES": str(here.parent)}).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))  # or the files were put into another's root
        # A changed page leaves the commit right; a changed line of code does not.
        changed = git("diff", "--name-only", "HEAD", "--", ":/*.py")
        commit = git("rev-parse", "--short=12", "HEAD") + "-dirty" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"python": platform.python_version(), "torch": torch.__version__, "device": name, "precision": precision,
            "commit": commit}
