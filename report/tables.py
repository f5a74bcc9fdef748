"""The tables of the README, of docs/results.md and of the scripts' last lines, from the records alone."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiment import published
from experiment.labels import LABELS, baseline, step_settings
from experiment.metrics import mean_and_spread
from experiment.records import Run, read_record

Record = dict[str, Any]
NOT_RUN = "not run"
NETWORKS = tuple(LABELS)
# Columns that say what was run, and not what came of it: where all rows agree, they are said once above the table.
SETTINGS = ("steps", "method", "image", "volume", "scene", "size", "test views", "seeds", "device")
RAN_ON = ["seeds", "device", "seconds"]
STEPS_SHOWN = (1_000, 3_000, 3_500, 4_000, 5_000, 10_000)  # of Kodak 05's training, whose rate falls after 3,000
BASIS = ("low_freq_num", "high_freq_num", "phase_num", "alpha")


class Table(NamedTuple):
    """A table: rows of what was measured, and rows for the published values beside which there is nothing yet."""

    columns: list[str]
    rows: list[list[str]]
    unmeasured: Sequence[list[str]] = ()


def read_records(folder: Path) -> list[Record]:
    """All records below a folder, each with `set`, the folder that says the size of its experiment."""
    records = []
    for path in sorted(folder.rglob("*.json")):
        record = read_record(path)
        if record["mode"] in NETWORKS:  # not DVGO's coarse stage, which belongs to both of its networks
            records.append({**record, "set": "/".join(path.relative_to(folder).parts[:-3])})
    return records


def run_size(record: Record) -> tuple[int, int, float]:
    """How large a run is: the points of its signal, its steps or epochs, the points a step (infinite: all)."""
    config = record["config"]
    return (math.prod(config["scene"]["train"] if "scene" in config else config.get("shape", [])),
            config.get("steps", config.get("epochs", 0)),
            config.get("batch") or config.get("chunk") or config.get("rays") or math.inf)


def largest(records: list[Record], experiment: str) -> list[Record]:
    """Of one experiment the records of the largest size, all of one case, at the paper's hidden rates.

    Where several sets have as many points and steps, those of the set that has the most networks, and those that take
    more points a step, as the paper does; of the set's cases that with the most networks.
    """
    chosen = [record for record in records if record["experiment"] == experiment]
    at_own_rates = [record for record in chosen if "hidden_lr" not in record["config"]]
    networks = {(record["set"], record["case"], record["mode"]) for record in at_own_rates}
    count = Counter((folder, case) for folder, case, _ in networks)

    def order(record: Record) -> tuple:
        points, steps, of_step = run_size(record)
        return points, steps, count[record["set"], record["case"]], of_step

    if not at_own_rates:
        return []
    folder = max(at_own_rates, key=order)["set"]
    first = max((record for record in at_own_rates if record["set"] == folder),
                key=lambda record: (count[folder, record["case"]], order(record)))
    points, steps, of_step = run_size(first)
    nearer = {record["set"] for record in at_own_rates if record["case"] == first["case"]
              and run_size(record)[:2] == (points, steps) and run_size(record)[2] > of_step}
    return [record for record in chosen if record["set"] in {folder, *nearer} and record["case"] == first["case"]]


def without_shared(table: Table) -> tuple[str, Table]:
    """A line of the settings that all rows share, and the table without them."""
    columns, rows, unmeasured = table
    shared = [i for i, column in enumerate(columns)
              if column in SETTINGS and len({row[i] for row in [*rows, *unmeasured]}) == 1]
    kept = [i for i in range(len(columns)) if i not in shared]

    def chosen(lines: Sequence[list[str]]) -> list[list[str]]:
        return [[line[i] for i in kept] for line in lines]

    line = ", ".join(f"{columns[i]} {rows[0][i]}" for i in shared) if rows else ""
    return line, Table(chosen([columns])[0], chosen(rows), chosen(unmeasured))


def markdown(table: Table) -> str:
    """A table of a page, below a line of what its rows share."""
    line, table = without_shared(table)
    lines = [table.columns, ["---"] * len(table.columns), *table.rows, *table.unmeasured]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"All rows: {line}.\n\n{text}" if line else text


def print_table(name: str, runs: Iterable[Run]) -> None:
    """Print the table `name` of finished runs for a terminal."""
    table = TABLES[name]([{**(run.record() or {}), "set": ""} for run in runs])
    line, (columns, rows, _) = without_shared(table._replace(unmeasured=()))
    print(f"\n{line}" if line else "")
    widths = [max(map(len, column)) for column in zip(columns, *rows)]
    for cells in [columns, *rows]:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths)).rstrip())


def groups(records: list[Record], experiment: str) -> list[list[Record]]:
    """The records of an experiment, those together that differ in the seed alone; the largest first."""
    def order(record: Record) -> tuple:
        return (*(-number for number in run_size(record)), record["set"], record["case"],
                NETWORKS.index(record["mode"]), record["seed"])

    found: dict[tuple, list[Record]] = {}
    for record in sorted((record for record in records if record["experiment"] == experiment), key=order):
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

    The two may differ in the learning rates and in what the basis is made of, and in nothing else. The baseline's
    hidden rate is the paper's; FR's at another one is in a folder of its own within the baseline's.
    """
    def settings(record: Record) -> tuple:
        without = ("lr", "network") + record["mode"].endswith("+fr") * ("hidden_lr",)
        config = {name: value for name, value in record["config"].items() if name not in without}
        network = {name: value for name, value in record["config"].get("network", {}).items() if name not in BASIS}
        return (record["set"].split("/")[0], record["case"], config, network, record["environment"]["precision"],
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


def network(record: Record) -> str:
    """The mode, and what is not the paper's about the steps of its hidden weights."""
    alpha = published.ALPHA.get(record["experiment"], {}).get(record["mode"])
    return ", ".join([record["mode"], *step_settings(record["config"], alpha)])


def unmeasured_row(columns: list[str], **cells: str) -> list[str]:
    """A row of which only some cells are known, by the first words of their columns."""
    return [cells.get(column.split()[0], "–") for column in columns]


def relative_error(records: list[Record]) -> Table:
    """Section 4: the error in frequency at three steps, of the first seed, as the released code's is of one."""
    rows = []
    for group in (group[:1] for group in groups(records, "1d")):
        config, mode = group[0]["config"], network(group[0])
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
        rows.append([f"{config['steps']:,}", network(first), mean(group, "loss", 4),
                     f"{known.get(network(first), '–')}", gain(group, of, "loss", 4), f"{100 * share:.0f} %",
                     *ran_on(group)])
    return Table(["steps", "network", "loss at the end", "released", "change by FR", "four largest NTK eigenvalues",
                  *RAN_ON], rows)


def images(records: list[Record]) -> Table:
    """Section 5: Kodak."""
    columns = ["image", "size", "network", "PSNR (dB)", "published", "FR gain", "best", "SSIM", *RAN_ON]
    of = groups(records, "2d")
    rows, missing = [], dict(published.PSNR_KODAK_05)
    for group in of:
        first, config = group[0], group[0]["config"]
        value = "–"
        if published_but_for_batch(first):
            value = f"{published.PSNR_KODAK_05[first['mode']]:.2f}"
            if config.get("batch"):
                value += " (all pixels a step)"
            else:
                missing.pop(first["mode"], None)
        rows.append([first["case"], image_size(config), network(first), mean(group, "psnr", 2),
                     value, gain(group, of, "psnr", 2), mean(group, "psnr_best", 2), mean(group, "ssim", 3),
                     *ran_on(group)])
    size = image_size(published.CONFIG_KODAK_05)
    return Table(columns, rows, [unmeasured_row(columns, image="kodim05", size=size, network=mode, PSNR=NOT_RUN,
                                                published=f"{value:.2f}") for mode, value in missing.items()])


def published_but_for_batch(record: Record) -> bool:
    """Whether a run is that of the published values of Kodak 05, but for the pixels a step."""
    return (record["case"] == "kodim05" and network(record) == record["mode"]
            and published.at(published.CONFIG_KODAK_05, {**record["config"], "batch": None}))


def batches(records: list[Record]) -> Table:
    """Section 5, Kodak 05: the PSNR of the whole image over the training, by the pixels a step."""
    found = sorted((group for group in groups(records, "2d") if published_but_for_batch(group[0])),
                   key=lambda group: (NETWORKS.index(group[0]["mode"]), run_size(group[0])))
    rows = []
    for group in found:
        batch = group[0]["config"].get("batch")
        looks = [{**record, "metrics": record["metrics"].get("psnr_at", {})} for record in group]
        rows.append([group[0]["mode"], f"{batch:,}" if batch else "all",
                     *(mean(looks, str(step), 2) for step in STEPS_SHOWN)])
    return Table(["network", "pixels a step", *(f"{step:,} steps" for step in STEPS_SHOWN)], rows)


def volumes(records: list[Record]) -> Table:
    """Section 5: occupancy."""
    columns = ["volume", "size", "network", "learning rate", "IoU", "published", "FR gain", "Chamfer", "F-score",
               *RAN_ON]
    of = groups(records, "3d")
    rows, missing = [], dict(published.IOU_THAI_STATUE)
    for group in of:
        first, config = group[0], group[0]["config"]
        same = first["case"] == "thai_statue" and published.at(published.CONFIG_THAI_STATUE, config)
        value = published.IOU_THAI_STATUE.get(network(first)) if same else None
        if value:
            missing.pop(first["mode"], None)
        rows.append([first["case"], volume_size(config), network(first), f"{config['lr']:g}", mean(group, "iou", 4),
                     f"{value} ({published.RECIPE_THAI_STATUE})" if value else "–", gain(group, of, "iou", 4),
                     mean(group, "chamfer", 3), mean(group, "f_score", 3), *ran_on(group)])
    size = " × ".join(map(str, published.CONFIG_THAI_STATUE["shape"]))
    return Table(columns, rows, [unmeasured_row(columns, volume="thai_statue", size=size, network=mode,
                                                learning=f"{published.CONFIG_THAI_STATUE['lr']:g}",
                                                IoU="no option for the published recipe",
                                                published=f"{value} ({published.RECIPE_THAI_STATUE})")
                                 for mode, value in missing.items()])


# With what the settings do not say of the published values.
METHODS = (("dvgo", "DVGO", published.PSNR_DVGO, published.CONFIG_DVGO, "their version of 2021"),
           ("ngp", "Instant-NGP", published.PSNR_NGP, published.CONFIG_NGP, "at 2e-2, NSVF's copy of the scene"))


def radiance_fields(records: list[Record]) -> Table:
    """Section 5: DVGO and Instant-NGP."""
    columns = ["method", "scene", "size", "network", "PSNR (dB)", "published", "FR gain", "SSIM", "test views",
               *RAN_ON]
    rows, unmeasured = [], []
    for experiment, name, known, wanted, beside in METHODS:
        of = groups(records, experiment)
        missing = dict(known)
        for group in of:
            first, config = group[0], group[0]["config"]
            height, width = config["scene"]["test"][1:3]
            as_published = height == width == published.VIEW and published.at(wanted, config)
            value = known.get(first["case"]) if as_published and network(first) == "relu" else None
            if value:
                missing.pop(first["case"], None)
            rows.append([name, first["case"], f"{width} × {height}, {training_length(config)}", network(first),
                         mean(group, "psnr", 2), f"{value:.2f} ({beside})" if value else "–",
                         gain(group, of, "psnr", 2),
                         mean(group, "ssim", 3), f"{len(first['metrics']['views'])}", *ran_on(group)])
        size = f"{published.VIEW} × {published.VIEW}, {training_length(wanted)}"
        unmeasured += [unmeasured_row(columns, method=name, scene=scene, size=size, network="relu", PSNR=NOT_RUN,
                                      published=f"{value:.2f} ({beside})") for scene, value in missing.items()]
    return Table(columns, rows, unmeasured)


def image_size(config: dict[str, Any]) -> str:
    """Pixels of an image and steps of training."""
    of_batch = f" of {config['batch']:,} pixels" if config.get("batch") else ""
    return f"{config['shape'][1]} × {config['shape'][0]}, {config['steps']:,} steps{of_batch}"


def volume_size(config: dict[str, Any]) -> str:
    """Voxels of a volume, epochs of training, and the points a step where they are not the paper's."""
    chunk = f", {config['chunk']:,} points a step" * (config["chunk"] != published.CHUNK_3D)
    return f"{' × '.join(map(str, config['shape']))}, {config['epochs']} epochs{chunk}"


def training_length(config: dict[str, Any]) -> str:
    """How long a radiance field is trained, and what is done without."""
    iterations = config["steps"] if "steps" in config else config["epochs"] * config["iterations"]
    without = [f", no {words}" for name, words in (("mask_renew", "mask renewal"), ("act_decay", "decay of act_shift"))
               if not config.get(name, True)]
    return f"{iterations:,} iterations of {config['rays']:,} rays{''.join(without)}"


def status(records: list[Record]) -> Table:
    """Each experiment in a row: baseline → FR, the paper's values beside ours at the largest size that was run."""
    def ours(experiment: str, metric: str, digits: int) -> str:
        found = {group[0]["mode"]: group for group in groups(largest(records, experiment), experiment)}

        def rate(mode: str) -> str:  # where FR's is not the baseline's
            rates = {mode: found[mode][0]["config"]["lr"] for mode in (baseline(mode), f"{baseline(mode)}+fr")
                     if mode in found}
            return f" (lr {rates[mode]:g})" * (len({*rates.values()}) > 1)

        return pairs({mode: mean(group, metric, digits) + rate(mode) for mode, group in found.items()})

    def paired(modes: Iterable[str]) -> set[str]:
        return {mode for mode in modes if {baseline(mode), f"{baseline(mode)}+fr"} <= set(modes)}

    def pairs(values: dict[str, str]) -> str:
        return "; ".join(f"{mode} {value} → {values[f'{mode}+fr']}" for mode, value in values.items()
                         if f"{mode}+fr" in values)

    def listed(values: dict[str, str]) -> str:
        alone = [f"{mode} {values[mode]}" for mode in values if mode not in paired(values)]
        return "; ".join(filter(None, [pairs(values), *alone]))

    def on(record: Record) -> str:
        return f"; {record['environment']['device']}"

    def size(experiment: str, name: Callable[[dict], str]) -> str:
        chosen = largest(records, experiment)
        return f"{chosen[0]['case']}, {name(chosen[0]['config'])}{on(chosen[0])}" if chosen else "–"

    def scene(config: dict) -> str:
        return "{2} × {1}".format(*config["scene"]["test"]) + f", {training_length(config)}"

    def text(values: dict[str, float], digits: int) -> dict[str, str]:
        return {mode: f"{value:.{digits}f}" for mode, value in values.items()}

    def kodak_05() -> list[list[str]]:
        """A row for each number of pixels a step, with the networks that no larger number has."""
        rows, left = [], text(published.PSNR_KODAK_05, 2)
        for of_step, of in groupby(groups(largest(records, "2d"), "2d"), lambda group: run_size(group[0])[2]):
            found = {group[0]["mode"]: group for group in of if group[0]["mode"] in left}
            if both := paired(found):
                first = next(iter(found.values()))[0]
                as_published = of_step == math.inf and published_but_for_batch(first)
                values = {mode: mean(group, "psnr", 2) for mode, group in found.items()}
                rows.append(["2D, PSNR in dB", f"Kodak 05: {listed({mode: left[mode] for mode in found})}"
                             + " (all pixels a step)" * (of_step < math.inf), listed(values),
                             ("the paper's" if as_published else f"{first['case']}, {image_size(first['config'])}")
                             + on(first)])
                left = {mode: value for mode, value in left.items() if mode not in both}
        return [*rows, ["2D, PSNR in dB", f"Kodak 05: {pairs(left)}", "–", "–"]] if left else rows

    of_thai_statue = (f"pictures; a later work: Thai statue {pairs(text(published.IOU_THAI_STATUE, 4))} "
                      f"({published.RECIPE_THAI_STATUE})")
    released = f"released code: {pairs(text(published.LOSS_1D, 2))}"
    baselines = [f"plain, lego: {known['lego']:.2f} ({published.VIEW} × {published.VIEW}, {training_length(wanted)}, "
                 f"{beside}); FR: not known" for _, _, known, wanted, beside in METHODS]
    rows = [["1D function, loss", released, ours("1d", "loss", 3), size("1d", lambda _: "the paper's")],
            *kodak_05(),
            ["3D, IoU", of_thai_statue, ours("3d", "iou", 4), size("3d", volume_size)],
            ["DVGO, PSNR in dB", baselines[0], ours("dvgo", "psnr", 2), size("dvgo", scene)],
            ["Instant-NGP, PSNR in dB", baselines[1], ours("ngp", "psnr", 2), size("ngp", scene)]]
    return Table(["experiment", "published", "ours", "our setting"], rows)


TABLES: dict[str, Callable[[list[Record]], Table]] = {
    "status": status, "relative error": relative_error, "loss": loss, "images": images, "batches": batches,
    "volumes": volumes, "radiance fields": radiance_fields}
