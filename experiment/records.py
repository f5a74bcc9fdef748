"""The record of a run, its arrays and its checkpoint, each written atomically."""

import argparse
import hashlib
import io
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiment.device import choose_device, set_precision
from experiment.errors import UserError, describe
from experiment.files import write_atomically
from experiment.labels import step_settings

KEYS = ("experiment", "case", "mode", "seed", "config", "metrics", "time", "environment", "command")


def digest(*arrays: np.ndarray) -> str:
    """What a run's config says of its data: other data, another run."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def read_record(path: Path) -> dict[str, Any]:
    """The record in a file. UserError if it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(record, dict) and all(key in record for key in KEYS)):
            raise ValueError("a key is missing")
        if not all(isinstance(record[key], dict) for key in ("config", "metrics", "time", "environment")):
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


@dataclass(frozen=True)
class Run:
    """One training run, named by experiment, case, mode and seed, and the files that it leaves below `results`.

    `config` holds every setting that decides the outcome. A record or checkpoint of the same name with another
    `config` or precision belongs to another run, and is neither used nor overwritten without --force; nor does a
    checkpoint go on on another type of device than it was made on.
    """

    results: Path
    experiment: str
    case: str
    mode: str
    seed: int
    config: dict[str, Any]
    precision: str = "fp32"
    device: str = "cpu"
    command: str = ""

    def path(self, suffix: str) -> Path:
        """<results>/<experiment>/<case>/<mode>-seed<k><suffix>; .json, .npz or .ckpt."""
        return self.results / self.experiment / self.case / f"{self.mode}-seed{self.seed}{suffix}"

    def __str__(self) -> str:
        return ", ".join([f"{self.experiment} {self.case} {self.mode} seed {self.seed}",
                          *step_settings(self.config, None)])

    def _check_same(self, path: Path, found: dict[str, Any]) -> None:
        wanted = {**self.config, "precision": self.precision}
        if "device" in found:
            wanted["device"] = self.device
        differing = [f"{key} {found.get(key)} where {wanted.get(key)} is asked for"
                     for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        if differing:
            raise UserError(f"{path} was made with {', '.join(differing)}; "
                            "give other --results and --figures folders, or train it again with --force")

    def record(self) -> dict[str, Any] | None:
        """The finished record, or None. UserError if it is damaged or of other settings."""
        path = self.path(".json")
        try:
            record = read_record(path)
        except FileNotFoundError:
            return None
        self._check_same(path, {**record["config"], "precision": record["environment"].get("precision")})
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

    def missing(self) -> Path | None:
        """What keeps the run from being finished: the record or the arrays, or a checkpoint of its training."""
        if self.path(".ckpt").exists():  # also of one begun again with --force, which leaves the old record until then
            return self.path(".ckpt")
        if self.record() is None:
            return self.path(".json")
        return None if self.path(".npz").exists() else self.path(".npz")

    def finished(self) -> bool:
        """Whether the record and the arrays that the figures need are both there."""
        return self.missing() is None

    def finish(self, *, metrics: dict[str, Any], arrays: Mapping[str, np.ndarray], seconds: float,
               steps: int) -> None:
        """Write the arrays, then the record that makes the run finished; drop the checkpoint."""
        packed = io.BytesIO()
        np.savez(packed, **dict[str, Any](arrays))
        record = {"experiment": self.experiment, "case": self.case, "mode": self.mode, "seed": self.seed,
                  "config": self.config, "metrics": metrics,
                  "time": {"train_seconds": round(seconds, 3), "steps_per_second": round(steps / seconds, 2)},
                  "environment": environment(self.device, self.precision), "command": self.command}
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        self.path(".json").unlink(missing_ok=True)  # it would vouch for arrays that are not its own
        write_atomically(self.path(".npz"), packed.getvalue())
        write_atomically(self.path(".json"), text.encode())
        self.path(".ckpt").unlink(missing_ok=True)
        for unfinished in self.path("").parent.glob(f".{self.path('').name}.*.tmp"):  # of a write that was killed
            unfinished.unlink(missing_ok=True)

    def checkpoint(self, step: int, **state: Any) -> None:
        """Save what `restore` needs to go on after `step` steps: tensors, and whatever has a state_dict."""
        packed = io.BytesIO()
        config = {**self.config, "precision": self.precision, "device": self.device}
        torch.save({"config": config, "step": step, "rng": torch.get_rng_state(),
                    "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
                    "state": {name: value if isinstance(value, torch.Tensor) else value.state_dict()
                              for name, value in state.items()}}, packed)
        write_atomically(self.path(".ckpt"), packed.getvalue())

    def restore(self, **state: Any) -> int:
        """Load the last checkpoint into what it was saved from; the number of steps done, 0 if there is none."""
        path = self.path(".ckpt")
        try:
            # weights_only: tensors and plain values, and no code. A learning rate that is a tensor has to be where
            # its optimizer is, so that all of it goes to the run's device; the states of generators belong on the CPU.
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


def planned_runs(args: argparse.Namespace, experiment: str, configs: Mapping[str, Mapping[str, dict]]) -> list[Run]:
    """The runs that the options ask for: of each case the seeds, of each seed the modes.

    Args:
        configs: of each case, for each mode of it, every setting that decides the outcome.

    Raises:
        UserError: the device or the precision that the options ask for is not there.
    """
    device = choose_device(args.device)
    set_precision(args.precision, device)
    return [Run(args.results, experiment, case, mode, seed, config, args.precision, device.type, args.command)
            for case, of_case in configs.items() for seed in args.seeds for mode, config in of_case.items()]


def recorded_run(results: Path, experiment: str, case: str, mode: str, seed: int, instead: str) -> Run:
    """A finished run with whatever settings its record has.

    Args:
        instead: what to do where it is missing, for the error message.

    Raises:
        UserError: it is not there or not finished, or its record is damaged.
    """
    run = Run(results, experiment, case, mode, seed, {})
    if run.path(".json").exists():
        record = read_record(run.path(".json"))
        run = replace(run, config=record["config"], precision=record["environment"]["precision"])
    if missing := run.missing():
        raise UserError(f"{instead} ({missing} is {'not finished' if missing.suffix == '.ckpt' else 'missing'})")
    return run


def environment(device: str, precision: str) -> dict[str, str]:
    """What a record says of the machine and the code that made it."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, text=True, check=True,
                              capture_output=True).stdout.strip()

    try:
        # Only another line of code makes the commit not say what was run.
        changed = git("diff", "--name-only", "HEAD", "--", ":/*.py")
        commit = git("rev-parse", "--short=12", "HEAD") + "-dirty" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"python": platform.python_version(), "torch": torch.__version__, "device": name, "precision": precision,
            "commit": commit}
