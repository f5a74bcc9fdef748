"""The report's tables, and that the README has them."""

import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from experiment import report
from experiment.errors import UserError
from experiment.records import Run

ROOT = Path(__file__).resolve().parents[1]


def write(path, mode, seed, psnr, **config):
    record = {"experiment": "2d", "case": "kodim05", "mode": mode, "seed": seed,
              "config": {"steps": 10_000, "shape": [512, 768, 3], "lr": 1e-4, **config},
              "metrics": {"psnr": psnr, "psnr_best": psnr + 1, "ssim": 0.5},
              "time": {"train_seconds": 10.0 + seed, "steps_per_second": 1.0},
              "environment": {"device": "cpu", "precision": "fp32"}}
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{mode}-seed{seed}.json").write_text(json.dumps(record))


def rows(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]


def test_means_spreads_gains_and_published_values(tmp_path):
    folder = tmp_path / "2d" / "kodim05"
    for seed, (plain, fr) in enumerate([(20.0, 22.0), (22.0, 25.0)]):
        write(folder, "sin", seed, plain)
        write(folder, "sin+fr", seed, fr)
    write(tmp_path / "quick" / "2d" / "kodim05", "sin+fr", 0, 40.0, steps=100)
    table = report.images(report.read(tmp_path))
    baseline, fr, quick, *gaps = rows(report.markdown(table))
    assert baseline == ["kodim05", "768 × 512, 10,000 steps", "sin", "21.00 ± 1.41", "33.05", "–", "22.00 ± 1.41",
                        "0.500 ± 0.000",
                        "0 1", "cpu, fp32", "10"]
    assert fr[3:6] == ["23.50 ± 2.12", "34.64", "+2.50"]
    assert quick[3:6] == ["40.00", "–", "–"]  # no published value for another size, and no baseline in the same folder
    assert [row[2] for row in gaps] == ["relu", "relu+fr", "relu+pe", "relu+pe+fr"]  # published, and not run here
    assert gaps[0] == ["kodim05", "768 × 512, 10,000 steps", "relu", report.NOT_RUN, "17.31", *6 * ["–"]]


def test_the_table_of_a_terminal_says_once_what_all_rows_share(tmp_path, capsys):
    runs = [Run(tmp_path, "2d", "kodim05", mode, 0, {"steps": 100, "shape": [20, 30, 3]}) for mode in ("sin", "sin+fr")]
    for run, psnr in zip(runs, (20.0, 21.5)):
        run.finish(metrics={"psnr": psnr, "psnr_best": psnr, "ssim": 0.5}, seconds=3, steps=100, arrays={},
                   environment={"device": "cpu", "precision": "fp32"})
    report.show("images", runs)
    assert capsys.readouterr().out.splitlines() == [
        "", "image kodim05, size 30 × 20, 100 steps, seeds 0, device cpu, fp32",
        "network  PSNR (dB)  published  FR gain  best   SSIM   seconds",
        "sin      20.00      –          –        20.00  0.500  3",
        "sin+fr   21.50      –          +1.50    21.50  0.500  3"]


def test_the_gain_of_fr_is_over_the_same_settings_and_the_seeds_of_both(tmp_path):
    folder = tmp_path / "2d" / "kodim05"
    for seed, psnr in enumerate((20.0, 30.0)):
        write(folder, "sin", seed, psnr)
    write(folder, "sin+fr", 1, 33.0, lr=5e-3, alpha=0.1)  # which may be another
    write(folder, "relu", 0, 10.0, steps=100)
    write(folder, "relu+fr", 0, 18.0)
    gains = {row[2]: row[5] for row in report.images(report.read(tmp_path)).rows}
    assert gains == {"relu": "–", "relu+fr": "–", "sin": "–", "sin+fr": "+3.00"}


def test_tables_are_written_into_their_places_and_nothing_else_changes(tmp_path, call):
    write(tmp_path / "results" / "2d" / "kodim05", "sin", 0, 20.0)
    page = tmp_path / "page.md"
    places = "".join(f"before {name}\n<!-- table: {name} -->\nold\n<!-- end of table -->\n" for name in report.TABLES)
    page.write_text(places)
    arguments = ("--results", tmp_path / "results", "--write", page)
    assert call("experiment.report", *arguments).returncode == 0
    text = page.read_text()
    assert "old" not in text and "| kodim05 | 768 × 512, 10,000 steps | sin | 20.00 | 33.05 |" in text
    assert [line for line in text.splitlines() if not line.startswith("|")] == [
        line for line in places.splitlines() if line != "old"]
    page.write_text("no place")
    done = call("experiment.report", *arguments)
    assert done.returncode == 2 and "no place for the table" in done.stderr and page.read_text() == "no place"


def test_a_damaged_record_is_named(tmp_path):
    write(tmp_path / "2d" / "kodim05", "sin", 0, 20.0)
    (tmp_path / "2d" / "kodim05" / "relu-seed0.json").write_text("{")
    with pytest.raises(UserError, match="relu-seed0.json"):
        report.read(tmp_path)


def test_the_readme_has_the_tables_of_the_committed_records(tmp_path):
    # Of what is committed: runs made since then rewrite records, and are nothing that the README need know of.
    try:
        packed = subprocess.run(["git", "archive", "HEAD", "results", "README.md"], cwd=ROOT, check=True,
                                capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(tmp_path, filter="data")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    places = dict(re.findall(r"<!-- table: (.*?) -->\n(.*?)\n<!-- end of table -->", text, re.DOTALL))
    assert set(places) == set(report.TABLES)
    records = report.read(tmp_path / "results")
    for name, make in report.TABLES.items():
        assert places[name] == report.markdown(make(records)), f"{name}: python -m experiment.report --write"
        assert len(rows(places[name])) >= 2
