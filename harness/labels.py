"""What networks and runs are called in tables and figures."""

from collections.abc import Iterable, Mapping
from typing import Any

LABELS = {"relu": "ReLU", "relu+fr": "ReLU + FR", "relu+pe": "ReLU + PE", "relu+pe+fr": "ReLU + PE + FR",
          "sin": "SIREN", "sin+fr": "SIREN + FR"}
OWN_FORMATS = {"lr": "lr {:g}", "alpha": "α {:g}", "hidden_lr": "hidden lr × {:.3g}", "control": "{}"}


def baseline(mode: str) -> str:
    """The mode without its `+fr`."""
    return mode.removesuffix("+fr")


def own_settings(own: Mapping[str, Any]) -> str:
    """The settings of a network's own, in words; empty where all are the default."""
    return ", ".join(OWN_FORMATS[name].format(value) for name, value in own.items())


def labels(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """A label for each of some runs that are shown together: the network, and what tells it from the others.

    Args:
        records: dicts with `mode`, `own` and `config`.
    """
    records = list(records)
    rates = {record["config"].get("lr") for record in records}
    shown = [{**({"lr": record["config"]["lr"]} if len(rates) > 1 else {}), **record["own"]} for record in records]
    return [", ".join(filter(None, [LABELS[record["mode"]], own_settings(own)])) for record, own in zip(records, shown)]


def size(experiment: str, config: Mapping[str, Any]) -> str:
    """The voxels of a volume, or the pixels of an image or of a scene's test views, columns first."""
    shape = config["scene"]["test"][1:3] if "scene" in config else config["shape"]
    return " × ".join(map(str, shape if experiment == "3d" else (shape[1], shape[0])))


UNITS = {"1d": "points", "2d": "pixels", "3d": "voxels", "dvgo": "rays", "ngp": "rays"}


def length(experiment: str, config: Mapping[str, Any]) -> str:
    """In words: the length of a training, and its points a step."""
    if "iterations" in config:
        text = f"{config['epochs'] * config['iterations']:,} steps"
    elif "epochs" in config:
        text = f"{config['epochs']:,} epochs"
    else:
        text = f"{config['steps']:,} steps"
    if config.get("batch"):
        text += f", {config['batch']:,} {UNITS[experiment]} a step"
    return text


def title(run: Any) -> str:
    """What a figure's title says of a `records.Run` and others like it: data, length of training, seed."""
    unit = "voxels" if run.experiment == "3d" else "pixels"
    return (f"{run.case}, {size(run.experiment, run.config)} {unit}, {length(run.experiment, run.config)}, "
            f"seed {run.seed}")
