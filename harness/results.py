"""The values to compare with, and the small table with which a script ends."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.labels import labels
from harness.records import Run

# An entry has values by mode, the settings (`at`) at which they hold, their source, and `beside`, what no setting says.
PUBLISHED_VALUES = json.loads((Path(__file__).parents[1] / "report" / "published.json").read_text(encoding="utf-8"))


def published(record: Mapping[str, Any], metric: str, digits: int) -> str:
    """The published value of a run in a metric, with what differs beside it; – where none is known.

    The run has to have the settings of that value. Only the points a step may differ, which is then said.

    Args:
        record: with `experiment`, `case`, `options`, `mode`, `own` and `config`.
    """
    config = record["config"]
    if "scene" in config:
        config = {**config, "scene_size": config["scene"]["test"][1:3]}
    names = {"experiment": record["experiment"], "case": record["case"], "metric": metric}
    for entry in PUBLISHED_VALUES:
        # All values are of fp32, and of the hidden rates and α of the paper.
        if names != {key: entry[key] for key in names} or "precision" in record["options"]:
            continue
        if record["own"].keys() - {"lr"}:
            continue
        differing = {key for key, value in entry["at"].items() if config.get(key) != value}
        if differing - {"batch"} or record["mode"] not in entry["values"]:
            continue
        beside = [entry["beside"]] if entry.get("beside") else []
        if differing:
            beside.append(f"{entry['at']['batch']:,} a step" if entry["at"]["batch"] else "all pixels a step")
        return f"{entry['values'][record['mode']]:.{digits}f}" + f" ({', '.join(beside)})" * bool(beside)
    return "–"


def mean_and_spread(values: list[float], digits: int) -> str:
    """The mean, ± the standard deviation where there are several values; – where one is missing."""
    if None in values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def print_results(runs: list[Run], metric: str, digits: int) -> None:
    """Print a table of finished runs: network, metric (the mean of the seeds), published value, seconds."""
    networks: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        networks.setdefault((run.case, run.network), []).append(run)
    rows = [["network", metric, "published", "seconds"]]
    first = [of_network[0] for of_network in networks.values()]
    several = len({run.case for run in runs}) > 1
    for label, run, of_network in zip(labels(map(vars, first)), first, networks.values()):
        records = [run.record() or {} for run in of_network]
        seconds = np.mean([record["time"]["train_seconds"] for record in records])
        rows.append([f"{run.case}: " * several + label,
                     mean_and_spread([record["metrics"][metric] for record in records], digits),
                     published(vars(run), metric, digits), f"{seconds:.0f}"])
    widths = [max(map(len, column)) for column in zip(*rows)]
    print()
    for cells in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths)).rstrip())
