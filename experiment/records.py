"""The record of a run, its arrays and its checkpoint, each written whole or not at all."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiment.errors import UserError, describe
from experiment.files import write_atomically

KEYS = ("experiment", "case", "mode", "seed", "config", "metrics", "time", "environment")


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

    def path(self, suffix: str) -> Path:
        """<results>/<experiment>/<case>/<mode>-seed<k><suffix>; .json, .npz or .ckpt."""
        return self.results / self.experiment / self.case / f"{self.mode}-seed{self.seed}{suffix}"

    def __str__(self) -> str:
        return f"{self.experiment} {self.case} {self.mode} seed {self.seed}"

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

    def finish(self, *, metrics: dict[str, Any], seconds: float, steps: int, environment: dict[str, str],
               arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays, then the record that makes the run finished; drop the checkpoint."""
        packed = io.BytesIO()
        np.savez(packed, **dict[str, Any](arrays))
        record = {"experiment": self.experiment, "case": self.case, "mode": self.mode, "seed": self.seed,
                  "config": self.config, "metrics": metrics,
                  "time": {"train_seconds": round(seconds, 3), "steps_per_second": round(steps / seconds, 2)},
                  "environment": environment}
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
            # weights_only: tensors and plain values, and no code. On the CPU, from where each part takes its own.
            saved = torch.load(path, map_location="cpu", weights_only=True)
            self._check_same(path, saved["config"])
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    value.copy_(saved["state"][name])
                else:
                    value.load_state_dict(saved["state"][name])
            step = saved["step"]
            torch.set_rng_state(saved["rng"])
            if saved["cuda_rng"] is not None and torch.cuda.is_initialized():
                torch.cuda.set_rng_state(saved["cuda_rng"])
            return step
        except FileNotFoundError:
            return 0
        except UserError:
            raise
        except Exception as error:  # a damaged zip or pickle raises nearly anything
            raise UserError(f"{path} is damaged; delete it to start the run again") from error
