"""The tables of the README, and those that the scripts print, from the records alone.

    python -m experiment.report                    prints them as Markdown
    python -m experiment.report --write README.md  puts each where the README has its place

A place is a pair of lines `<!-- table: name -->` and `<!-- end of table -->`. Records at the paper's size lie right
below results/, those of smaller experiments in folders of their own: quick (made by --quick) and others.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiment import cli, published
from experiment.errors import UserError
from experiment.files import write_atomically
from experiment.metrics import mean_and_spread
from experiment.plots import LABELS, baseline
from experiment.records import Run, read_record

Record = dict[str, Any]
NOT_RUN = "not run: needs a GPU"
NETWORKS = tuple(LABELS)
# Columns that say what was run, and not what came of it.
SETTINGS = ("steps", "renderer", "image", "volume", "scene", "size", "test views", "seeds", "device")


class Table(NamedTuple):
    """A table: rows of what was measured, and rows for the published values beside which there is nothing yet."""

    columns: list[str]
    rows: list[list[str]]
    gaps: Sequence[list[str]] = ()


def read(results: Path) -> list[Record]:
    """All records below a folder, each with `set`, the folder that they lie in: '' for the paper's size."""
    records = []
    for path in sorted(results.rglob("*.json")):
        record = read_record(path)
        if record["mode"] in NETWORKS:  # not DVGO's coarse stage, which belongs to both of its networks
            records.append({**record, "set": "/".join(path.relative_to(results).parts[:-3])})
    return records


def markdown(table: Table) -> str:
    """A table of the README."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows, *table.gaps]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(name: str, runs: Iterable[Run]) -> None:
    """Print the table `name` of finished runs for a terminal: first what all rows share, then the rest in columns."""
    columns, rows, _ = TABLES[name]([{**(run.record() or {}), "set": ""} for run in runs])
    shared = [i for i, column in enumerate(columns) if column in SETTINGS and len({row[i] for row in rows}) == 1]
    print()
    if shared:
        print(", ".join(f"{columns[i]} {rows[0][i]}" for i in shared))
    lines = [[cell for i, cell in enumerate(line) if i not in shared] for line in [columns, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths)).rstrip())


def groups(records: list[Record], experiment: str) -> list[list[Record]]:
    """The records of an experiment, those together that differ in the seed alone; in the order of the networks."""
    found: dict[tuple, list[Record]] = {}
    chosen = [record for record in records if record["experiment"] == experiment]
    for record in sorted(chosen, key=lambda record: (record["set"], record["case"], NETWORKS.index(record["mode"]),
                                                     record["seed"])):
        environment = record["environment"]
        key = (record["set"], record["case"], environment["precision"], environment["device"], record["mode"],
               json.dumps(record["config"], sort_keys=True))
        found.setdefault(key, []).append(record)
    return list(found.values())


def mean(group: list[Record], metric: str, digits: int) -> str:
    """A metric's mean over the seeds, ± its standard deviation where there are several; – where there is none."""
    values = [record["metrics"].get(metric) for record in group]
    return "–" if None in values else mean_and_spread(values, digits)


def gain(group: list[Record], of: list[list[Record]], metric: str, digits: int) -> str:
    """What FR adds to its baseline in a metric, over the seeds that both have; – for a baseline, or without one.

    The two may differ in the learning rate and in α, and in nothing else.
    """
    def settings(record: Record) -> tuple:
        config = {name: value for name, value in record["config"].items() if name not in ("lr", "alpha")}
        return (record["set"], record["case"], config, record["environment"]["precision"],
                record["environment"]["device"])

    first = group[0]
    if first["mode"].endswith("+fr"):
        for other in of:
            if other[0]["mode"] == baseline(first["mode"]) and settings(other[0]) == settings(first):
                plain, fr = ({record["seed"]: record["metrics"][metric] for record in records}
                             for records in (other, group))
                if both := plain.keys() & fr.keys():
                    return f"{np.mean([fr[seed] - plain[seed] for seed in both]):+.{digits}f}"
    return "–"


def ran_on(group: list[Record]) -> list[str]:
    """The last columns of each table: seeds, device and precision, seconds of training."""
    environment = group[0]["environment"]
    return [" ".join(str(record["seed"]) for record in group), f"{environment['device']}, {environment['precision']}",
            f"{np.mean([record['time']['train_seconds'] for record in group]):.0f}"]


RAN_ON = ["seeds", "device", "seconds"]


def gap(columns: list[str], **cells: str) -> list[str]:
    """A row of which only some cells are known, by the first words of their columns."""
    return [cells.get(column.split()[0], "–") for column in columns]


def relative_error(records: list[Record]) -> Table:
    """Section 4: the error in frequency at three steps, of the first seed, as the released code's is of one."""
    rows = []
    for group in (group[:1] for group in groups(records, "1d")):
        config, mode = group[0]["config"], group[0]["mode"]
        known = published.RELATIVE_ERROR_1D.get(mode, {}) if published.at(published.CONFIG_1D, config) else {}
        metrics = group[0]["metrics"]
        last = str(config["steps"] - 1)
        for step, errors in {**metrics["relative_error_at"], last: metrics["relative_error"]}.items():
            ours = list(errors.values())
            released = known.get(int(step))
            rows.append([mode, f"{int(step):,}", " ".join(f"{error:.3f}".lstrip("0") for error in ours),
                         " ".join(f"{error:.2f}".lstrip("0") for error in released) if released else "–",
                         f"{np.abs(np.subtract(ours, released)).max():.3f}" if released else "–", *ran_on(group)])
    return Table(["network", "step", "error at 1.5 / 2.5 / 3.5 / 4.5 Hz", "released", "largest difference", *RAN_ON],
                 rows)


def loss(records: list[Record]) -> Table:
    """Section 4: the loss at the end and what the NTK says."""
    of = groups(records, "1d")
    rows = []
    for group in of:
        first, config = group[0], group[0]["config"]
        known = published.LOSS_1D if published.at(published.CONFIG_1D, config) else {}
        last = max(first["metrics"]["ntk_eigenvalue_shares"], key=int)
        share = np.mean([1 - record["metrics"]["ntk_eigenvalue_shares"][last][-1] for record in group])
        rows.append([f"{config['steps']:,}", first["mode"], mean(group, "loss", 4), f"{known.get(first['mode'], '–')}",
                     gain(group, of, "loss", 4), f"{100 * share:.0f} %", *ran_on(group)])
    return Table(["steps", "network", "loss at the end", "released", "FR gain", "four largest NTK eigenvalues",
                  *RAN_ON], rows)


def images(records: list[Record]) -> Table:
    """Section 5: Kodak."""
    columns = ["image", "size", "network", "PSNR (dB)", "published", "FR gain", "best", "SSIM", *RAN_ON]
    of = groups(records, "2d")
    rows, missing = [], dict(published.PSNR_KODAK_05)
    for group in of:
        first, config = group[0], group[0]["config"]
        known = first["case"] == "kodim05" and published.at(published.CONFIG_KODAK_05, config)
        if known:
            missing.pop(first["mode"], None)
        rows.append([first["case"], image_size(config),
                     first["mode"], mean(group, "psnr", 2),
                     f"{published.PSNR_KODAK_05[first['mode']]:.2f}" if known else "–",
                     gain(group, of, "psnr", 2), mean(group, "psnr_best", 2), mean(group, "ssim", 3), *ran_on(group)])
    return Table(columns, rows, [gap(columns, image="kodim05", size=image_size(published.CONFIG_KODAK_05), network=mode,
                                     PSNR=NOT_RUN, published=f"{value:.2f}") for mode, value in missing.items()])


def volumes(records: list[Record]) -> Table:
    """Section 5: occupancy."""
    columns = ["volume", "size", "network", "learning rate", "IoU", "published", "FR gain", "Chamfer", "F-score",
               *RAN_ON]
    of = groups(records, "3d")
    rows, missing = [], dict(published.IOU_THAI_STATUE)
    for group in of:
        first, config = group[0], group[0]["config"]
        statue = first["case"] == "thai_statue" and published.at(published.CONFIG_THAI_STATUE, config)
        known = published.IOU_THAI_STATUE if statue else {}
        if statue:
            missing.pop(first["mode"], None)
        rows.append([first["case"], volume_size(config), first["mode"], f"{config['lr']:g}",
                     mean(group, "iou", 4), f"{known.get(first['mode'], '–')}", gain(group, of, "iou", 4),
                     mean(group, "chamfer", 3), mean(group, "f_score", 3), *ran_on(group)])
    size = volume_size(published.CONFIG_THAI_STATUE)
    return Table(columns, rows, [gap(columns, volume="thai_statue", size=size, network=mode, learning="0.002",
                                     IoU=NOT_RUN, published=f"{value}") for mode, value in missing.items()])


def renderings(records: list[Record]) -> Table:
    """Section 5: DVGO and Instant-NGP."""
    columns = ["renderer", "scene", "size", "network", "PSNR (dB)", "published", "FR gain", "SSIM", "test views",
               *RAN_ON]
    rows, gaps = [], []
    for experiment, name, known, wanted in (("dvgo", "DVGO", published.PSNR_DVGO, published.CONFIG_DVGO),
                                            ("ngp", "Instant-NGP", published.PSNR_NGP, published.CONFIG_NGP)):
        of = groups(records, experiment)
        missing = dict(known)
        for group in of:
            first, config = group[0], group[0]["config"]
            height, width = config["scene"]["test"][1:3]
            as_published = height == width == published.VIEW and published.at(wanted, config)
            value = known.get(first["case"]) if as_published and first["mode"] == "relu" else None
            if value:
                missing.pop(first["case"], None)
            rows.append([name, first["case"], f"{width} × {height}, {length(config)}", first["mode"],
                         mean(group, "psnr", 2), f"{value:.2f}" if value else "–", gain(group, of, "psnr", 2),
                         mean(group, "ssim", 3), f"{len(first['metrics']['views'])}", *ran_on(group)])
        size = f"{published.VIEW} × {published.VIEW}, {length(wanted)}"
        gaps += [gap(columns, renderer=name, scene=scene, size=size, network="relu", PSNR=NOT_RUN,
                     published=f"{value:.2f}") for scene, value in missing.items()]
    return Table(columns, rows, gaps)


def image_size(config: dict[str, Any]) -> str:
    """Pixels of an image and steps of training."""
    return f"{config['shape'][1]} × {config['shape'][0]}, {config['steps']:,} steps"


def volume_size(config: dict[str, Any]) -> str:
    """Voxels of a volume and epochs of training."""
    return f"{' × '.join(map(str, config['shape']))}, {config['epochs']} epochs"


def length(config: dict[str, Any]) -> str:
    """How long a renderer is trained."""
    return f"{config['steps']:,} iterations" if "steps" in config else f"{config['epochs']} epochs"


TABLES: dict[str, Callable[[list[Record]], Table]] = {"relative error": relative_error, "loss": loss, "images": images,
                                                     "volumes": volumes, "renderings": renderings}


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this file instead")
    args = parser.parse_args()
    # The tables of section 4 have no column for the size of an experiment: there it is the paper's alone.
    records = [record for record in read(args.results) if record["experiment"] != "1d" or not record["set"]]
    tables = {name: markdown(make(records)) for name, make in TABLES.items()}
    if not args.write:
        print("\n\n".join(f"## {name}\n\n{text}" for name, text in tables.items()))
        return
    text = args.write.read_text(encoding="utf-8")
    for name, new in tables.items():
        place = re.search(rf"<!-- table: {name} -->\n(.*?)<!-- end of table -->", text, re.DOTALL)
        if not place:
            raise UserError(f"{args.write} has no place for the table '{name}'")
        text = f"{text[:place.start(1)]}{new}\n{text[place.end(1):]}"
    write_atomically(args.write, text.encode())
    print(f"wrote {args.write}")


if __name__ == "__main__":
    cli.run(main)
