"""The tables of docs/results.md: each is made of the records of named folders of records/, a row a network."""

from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from harness.labels import LABELS, labels, length, size
from harness.records import read_record
from harness.results import PUBLISHED_VALUES, mean_and_spread, published

Record = dict[str, Any]
Group = list[Record]  # one network of one folder, a record a seed
Row = dict[str, str]  # what a table shows of a network, by column
FIRST_COLUMNS = ("method", "scene", "image", "volume", "size", "training", "steps", "pixels a step")
SHARED_COLUMNS = (*FIRST_COLUMNS, "test views", "seeds", "device")  # above the table where all rows agree
METHODS = {"dvgo": "DVGO", "ngp": "Instant-NGP"}


def read_groups(records: Path, folders: Iterable[str]) -> list[Group]:
    """The networks of some folders, those of the first folder first; without those of studies/controls.py, and in 1D
    without all that have settings of their own, which are of studies/step_size.py.

    Raises:
        UserError: a folder that has no record.
    """
    groups: dict[tuple, Group] = {}
    for folder in folders:
        found = [read_record(path) for path in (records / folder).glob("*.json")]
        if not found:
            raise UserError(f"there is no record in {records / folder}")
        found = [record for record in found if record["mode"] in LABELS and "control" not in record["own"]
                 and not (record["experiment"] == "1d" and record["own"])]
        for record in sorted(found, key=lambda record: (list(LABELS).index(record["mode"]), len(record["own"]),
                                                        str(record["own"]), record["seed"])):
            groups.setdefault((folder, record["mode"], str(record["own"])), []).append(record)
    return list(groups.values())


def mean(group: Group, metric: str, digits: int) -> str:
    """A metric's mean over the seeds, ± its standard deviation where there are several."""
    return mean_and_spread([record["metrics"][metric] for record in group], digits)


def seeds(group: Group) -> str:
    """The seeds of a network."""
    return " ".join(str(record["seed"]) for record in group)


def gain(group: Group, groups: list[Group], metric: str, digits: int) -> str:
    """What FR adds to its baseline of the same folder at the default settings; the mean over the seeds of both.

    – for a baseline, without one, and for an image that has fewer values than the network's hidden layers have weights.
    """
    first = group[0]
    network = first["config"]["network"]
    weights = network.get("hidden_layers", 1) * network["hidden_features"] ** 2
    few = first["experiment"] == "2d" and np.prod(first["config"]["shape"]) < weights

    def values(records: Group) -> dict[int, float]:
        return {record["seed"]: record["metrics"][metric] for record in records}

    for other in groups:
        same = all(other[0][key] == first[key] for key in ("experiment", "case", "options"))
        if same and first["mode"] == f"{other[0]['mode']}+fr" and not other[0]["own"] and not few:
            plain, fr = values(other), values(group)
            if both := plain.keys() & fr.keys():
                return f"{np.mean([fr[seed] - plain[seed] for seed in both]):+.{digits}f}"
    return "–"


def loss(group: Group, groups: list[Group]) -> Row:
    """Section 4: the loss at the end, and what the four largest eigenvalues hold of the NTK's sum."""
    def held(record: Record) -> float:
        shares = record["metrics"]["ntk_eigenvalue_shares"]
        return 100 * (1 - shares[max(shares, key=int)][-1])

    return {"loss": mean(group, "loss", 4), "released code": published(group[0], "loss", 2),
            "change by FR": gain(group, groups, "loss", 4),
            "share of the NTK's four largest eigenvalues": f"{np.mean([held(record) for record in group]):.0f} %"}


def relative_error(groups: list[Group]) -> list[Row]:
    """Section 4: the error at four frequencies after several steps, beside what the authors' files show."""
    def text(errors: Iterable[float]) -> str:
        return " ".join(f"{error:.3f}".removeprefix("0") for error in errors)

    rows = []
    for group in groups:
        steps = group[0]["config"]["steps"]
        for step in (*group[0]["metrics"]["relative_error_at"], str(steps)):
            ours = np.array([list({**record["metrics"]["relative_error_at"],
                                   str(steps): record["metrics"]["relative_error"]}[step].values())
                             for record in group])
            spread = f"{ours.std(axis=0, ddof=1).max():.3f}".removeprefix("0") if len(group) > 1 else "–"
            row = {"network": LABELS[group[0]["mode"]], "step": f"{int(step):,}", "here": text(ours.mean(axis=0)),
                   "± at most": spread}
            for entry in PUBLISHED_VALUES:
                if entry["metric"] == "relative_error" and all(group[0]["config"][key] == value
                                                               for key, value in entry["at"].items()):
                    errors = entry["values"].get(group[0]["mode"], {}).get(step)
                    row[entry["name"]] = text(errors) if errors else "–"
            rows.append({**row, "seeds": seeds(group)})
    return rows


def images(group: Group, groups: list[Group]) -> Row:
    """Section 5: Kodak. The published values are of all pixels in each step."""
    config = group[0]["config"]
    return {"image": group[0]["case"], "size": size("2d", config), "steps": f"{config['steps']:,}",
            "pixels a step": f"{config['batch']:,}" if config["batch"] else "all",
            "PSNR (dB)": mean(group, "psnr", 2),
            "published, all pixels": published(group[0], "psnr", 2).split(" (")[0],
            "FR gain": gain(group, groups, "psnr", 2), "SSIM": mean(group, "ssim", 3)}


def volumes(group: Group, groups: list[Group]) -> Row:
    """Section 5: occupancy."""
    config = group[0]["config"]
    return {"volume": group[0]["case"], "size": size("3d", config), "training": length("3d", config),
            "IoU": mean(group, "iou", 4), "published": published(group[0], "iou", 4),
            "FR gain": gain(group, groups, "iou", 4), "Chamfer": mean(group, "chamfer", 3),
            "F-score": mean(group, "f_score", 3)}


def radiance_fields(group: Group, groups: list[Group]) -> Row:
    """Section 5: DVGO and Instant-NGP."""
    experiment, config = group[0]["experiment"], group[0]["config"]
    return {"method": METHODS[experiment], "scene": group[0]["case"], "size": size(experiment, config),
            "training": length(experiment, config), "PSNR (dB)": mean(group, "psnr", 2),
            "published": published(group[0], "psnr", 2), "FR gain": gain(group, groups, "psnr", 2),
            "SSIM": mean(group, "ssim", 3), "test views": str(len(group[0]["metrics"]["views"]))}


# What makes a row of a table, of one network and of all; the rows of "relative error" are made otherwise.
ROWS: dict[str, Callable[[Group, list[Group]], Row]] = {
    "loss": loss, "images": images, "volumes": volumes, "radiance fields": radiance_fields}
TABLES = (*ROWS, "relative error")


def table(kind: str, groups: list[Group]) -> list[Row]:
    """The rows of one of `TABLES`, each with its network, seeds, device and seconds of training."""
    if kind == "relative error":
        return relative_error(groups)
    names = [name for _, of_one in groupby(groups, lambda group: group[0]["experiment"])
             for name in labels([group[0] for group in of_one])]
    return [{"network": name, **ROWS[kind](group, groups), "seeds": seeds(group),
             "device": group[0]["environment"]["device"],
             "seconds": f"{np.mean([record['time']['train_seconds'] for record in group]):,.0f}"}
            for name, group in zip(names, groups)]


def markdown(rows: list[Row]) -> str:
    """A table, below a line of what all its rows share; without a column that is empty."""
    alike = {column for column in rows[0] if len({row[column] for row in rows}) == 1}
    shared = [f"{column} {rows[0][column]}" for column in rows[0] if column in alike.intersection(SHARED_COLUMNS)]
    left_out = {column for column in alike if column in SHARED_COLUMNS or rows[0][column] == "–"}
    columns = sorted((column for column in rows[0] if column not in left_out),
                     key=lambda column: column not in FIRST_COLUMNS)
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"All rows: {', '.join(shared)}.\n\n{table}" if shared else table
