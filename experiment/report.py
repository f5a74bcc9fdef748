"""The tables of the README, from the records alone.

    python -m experiment.report                    prints them as Markdown
    python -m experiment.report --write README.md  puts each where the README has its place

A place is a pair of lines `<!-- table: name -->` and `<!-- end of table -->`. Records at the paper's size lie right
below results/, those of smaller experiments in folders of their own: quick (made by --quick) and others.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiment import cli, published
from experiment.plots import baseline
from experiment.records import KEYS, write_atomically

Record = dict[str, Any]
NETWORKS = ("relu", "relu+fr", "relu+pe", "relu+pe+fr", "sin", "sin+fr")


def read(results: Path) -> list[Record]:
    """All records below a folder, each with `set`, the folder that they lie in: '' for the paper's size."""
    records = []
    for path in sorted(results.rglob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not all(key in record for key in KEYS):
                raise ValueError("a key is missing")
        except (ValueError, TypeError) as error:
            raise cli.UserError(f"{path} is damaged ({cli.describe(error)}); delete it") from error
        if record["mode"] in NETWORKS:  # not DVGO's coarse stage, which belongs to both of its networks
            records.append({**record, "set": "/".join(path.relative_to(results).parts[:-3])})
    return records


def table(columns: list[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    if None in values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def gain(group: list[Record], of: list[list[Record]], metric: str, digits: int) -> str:
    """What FR adds to its baseline in a metric; – for a baseline, or where it was not run."""
    first = group[0]
    for other in of:
        same = all(other[0][key] == first[key] for key in ("set", "case")) and all(
            other[0]["environment"][key] == first["environment"][key] for key in ("precision", "device"))
        if same and first["mode"].endswith("+fr") and other[0]["mode"] == baseline(first["mode"]):
            difference = np.mean([r["metrics"][metric] for r in group]) - np.mean([r["metrics"][metric] for r in other])
            return f"{difference:+.{digits}f}"
    return "–"


def ran_on(group: list[Record]) -> list[str]:
    """The last columns of each table: seeds, device and precision, seconds of training."""
    environment = group[0]["environment"]
    return [" ".join(str(record["seed"]) for record in group), f"{environment['device']}, {environment['precision']}",
            f"{np.mean([record['time']['train_seconds'] for record in group]):.0f}"]


RAN_ON = ["seeds", "device", "seconds"]


def relative_error(records: list[Record]) -> str:
    """Section 4: the error in frequency at three steps, ours and that of the released code."""
    rows = []
    for group in groups(records, "1d"):
        first, = group[:1]
        for at in ("1000", "5000", "9999"):
            metrics = first["metrics"]
            errors = metrics["relative_error"] if at == "9999" else metrics["relative_error_at"].get(at)
            if first["set"] or first["config"]["steps"] != 10_000 or errors is None:
                continue
            ours = list(errors.values())
            released = published.RELATIVE_ERROR_1D.get(first["mode"], {}).get(int(at))
            rows.append([first["mode"], f"{int(at):,}", " ".join(f"{error:.3f}".lstrip("0") for error in ours),
                         " ".join(f"{error:.2f}".lstrip("0") for error in released) if released else "–",
                         f"{max(abs(a - b) for a, b in zip(ours, released)):.3f}" if released else "–"])
    return table(["network", "step", "error at 1.5 / 2.5 / 3.5 / 4.5 Hz", "released", "largest difference"], rows)


def loss(records: list[Record]) -> str:
    """Section 4: the loss at the end and what the NTK says."""
    rows = []
    for group in groups(records, "1d"):
        first = group[0]
        if not first["set"]:
            last = max(first["metrics"]["ntk_eigenvalue_shares"], key=int)
            share = 1 - first["metrics"]["ntk_eigenvalue_shares"][last][-1]
            rows.append([first["mode"], mean(group, "loss", 4), f"{published.LOSS_1D.get(first['mode'], '–')}",
                         f"{100 * share:.0f} %", *ran_on(group)])
    return table(["network", "loss at the end", "released", "share of the four largest NTK eigenvalues", *RAN_ON], rows)


def images(records: list[Record]) -> str:
    """Section 5: Kodak."""
    of = groups(records, "2d")
    rows = []
    for group in of:
        first, config = group[0], group[0]["config"]
        known = not first["set"] and first["case"] == "kodim05" and config["steps"] == 10_000
        rows.append([first["case"], f"{config['shape'][1]} × {config['shape'][0]}, {config['steps']:,} steps",
                     first["mode"], mean(group, "psnr", 2),
                     f"{published.PSNR_KODAK_05[first['mode']]}" if known else "–",
                     gain(group, of, "psnr", 2), mean(group, "ssim", 3), *ran_on(group)])
    return table(["image", "size", "network", "PSNR (dB)", "published", "FR gain", "SSIM", *RAN_ON], rows)


def volumes(records: list[Record]) -> str:
    """Section 5: occupancy."""
    of = groups(records, "3d")
    rows = []
    for group in of:
        first, config = group[0], group[0]["config"]
        known = (published.IOU_THAI_STATUE if not first["set"] and first["case"] == "thai_statue"
                 and config["epochs"] == 200 else {})
        size = " × ".join(map(str, config["shape"]))
        rows.append([first["case"], f"{size}, {config['epochs']} epochs", first["mode"], f"{config['lr']:g}",
                     mean(group, "iou", 4), f"{known.get(first['mode'], '–')}", gain(group, of, "iou", 4),
                     mean(group, "chamfer", 3), mean(group, "f_score", 3), *ran_on(group)])
    return table(["volume", "size", "network", "learning rate", "IoU", "published", "FR gain", "Chamfer", "F-score",
                  *RAN_ON], rows)


def renderings(records: list[Record]) -> str:
    """Section 5: DVGO and Instant-NGP."""
    rows = []
    for experiment, name, known in (("dvgo", "DVGO", published.PSNR_DVGO), ("ngp", "Instant-NGP", published.PSNR_NGP)):
        of = groups(records, experiment)
        for group in of:
            first, config = group[0], group[0]["config"]
            length = f"{config['steps']:,} iterations" if experiment == "dvgo" else f"{config['epochs']} epochs"
            published_size = not first["set"] and first["mode"] == "relu"
            rows.append([name, first["case"], f"{config['scene']['test'][2]} × {config['scene']['test'][1]}, {length}",
                         first["mode"], mean(group, "psnr", 2),
                         f"{known.get(first['case'], '–') if published_size else '–'}", gain(group, of, "psnr", 2),
                         mean(group, "ssim", 3), f"{len(first['metrics']['views'])}", *ran_on(group)])
    return table(["renderer", "scene", "size", "network", "PSNR (dB)", "published", "FR gain", "SSIM", "test views",
                  *RAN_ON], rows)


TABLES: dict[str, Callable[[list[Record]], str]] = {"relative error": relative_error, "loss": loss, "images": images,
                                                     "volumes": volumes, "renderings": renderings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this file instead")
    args = parser.parse_args()
    records = read(args.results)
    tables = {name: make(records) for name, make in TABLES.items()}
    if not args.write:
        print("\n\n".join(f"## {name}\n\n{text}" for name, text in tables.items()))
        return
    text = args.write.read_text(encoding="utf-8")
    for name, new in tables.items():
        place = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end of table -->)", re.DOTALL)
        if not place.search(text):
            raise cli.UserError(f"{args.write} has no place for the table '{name}'")
        text = place.sub(lambda found: f"{found[1]}{new}\n{found[2]}", text)
    write_atomically(args.write, text.encode())
    print(f"wrote {args.write}")


if __name__ == "__main__":
    cli.run(main)
