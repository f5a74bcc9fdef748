"""The tables that are made from records."""

import json

import pytest
from conftest import write_record

from data.errors import UserError
from harness.records import Run, read_record
from report import tables


def table(records, *folders):
    return tables.images(tables.read_groups(records, folders))


def column(rows, name):
    return {row["network"]: row[name] for row in rows}


def write_other(folder, experiment, case, mode, config, metrics, **identity):
    """A record of another experiment than `write_record` writes."""
    template = read_record(write_record(folder / "template", mode, 0, 20.0))
    run = Run(folder, experiment, case, mode, config=config, **{"seed": 0, **identity})
    run.path(".json").parent.mkdir(parents=True, exist_ok=True)
    run.path(".json").write_text(json.dumps({**template, **{key: getattr(run, key) for key in (
        "experiment", "case", "options", "mode", "own", "seed", "config")}, "metrics": metrics}))


def test_rows_are_means_over_the_seeds_in_the_order_of_folders_and_networks(tmp_path):
    for seed, (plain, fr) in enumerate([(20.0, 22.0), (22.0, 25.0)]):
        write_record(tmp_path, "sin+fr", seed, fr)
        write_record(tmp_path, "sin", seed, plain)
        write_record(tmp_path, "relu", seed, 10.0, options={"batch": 4096}, batch=4096)
    rows = table(tmp_path, "2d/kodim05", "2d/kodim05/batch=4096")
    assert rows[0] == {"network": "SIREN", "image": "kodim05", "size": "768 × 512", "steps": "10,000",
                       "pixels a step": "all", "PSNR (dB)": "21.00 ± 1.41", "published, all pixels": "33.05",
                       "FR gain": "–", "SSIM": "0.500 ± 0.000", "seeds": "0 1", "device": "cpu", "seconds": "10"}
    assert column(rows, "PSNR (dB)") == {"SIREN": "21.00 ± 1.41", "SIREN + FR": "23.50 ± 2.12", "ReLU": "10.00 ± 0.00"}
    assert column(rows, "FR gain") == {"SIREN": "–", "SIREN + FR": "+2.50", "ReLU": "–"}
    assert column(rows, "published, all pixels")["ReLU"] == "17.31" and rows[2]["pixels a step"] == "4,096"


def test_the_gain_is_over_the_default_baseline_of_the_same_folder_and_the_seeds_of_both(tmp_path):
    for seed, psnr in enumerate((20.0, 30.0)):
        write_record(tmp_path, "sin", seed, psnr)
    write_record(tmp_path, "sin", 1, 5.0, own={"hidden_lr": 3.0}, hidden_lr=3.0)
    write_record(tmp_path, "sin+fr", 1, 33.0)
    write_record(tmp_path, "sin+fr", 0, 21.0, own={"hidden_lr": 0.3}, hidden_lr=0.3)
    write_record(tmp_path, "relu", 0, 10.0, options={"batch": 4096}, batch=4096)
    write_record(tmp_path, "relu+fr", 0, 18.0)
    gains = column(table(tmp_path, "2d/kodim05", "2d/kodim05/batch=4096"), "FR gain")
    assert gains == {"SIREN": "–", "SIREN, hidden lr × 3": "–", "SIREN + FR": "+3.00",
                     "SIREN + FR, hidden lr × 0.3": "+1.00", "ReLU": "–", "ReLU + FR": "–"}


def test_an_image_with_fewer_values_than_weights_shows_no_gain(tmp_path):
    network = {"hidden_features": 256, "hidden_layers": 3}  # 196,608 weights
    for mode, psnr in (("sin", 20.0), ("sin+fr", 40.0)):
        write_record(tmp_path, mode, 0, psnr, options={"downscale": 4}, shape=[128, 192, 3], network=network)
        write_record(tmp_path, mode, 0, psnr, options={"downscale": 2}, shape=[256, 384, 3], network=network)
    small, large = (table(tmp_path, f"2d/kodim05/downscale={factor}")[1]["FR gain"] for factor in (4, 2))
    assert (small, large) == ("–", "+20.00")


def test_learning_rates_that_differ_are_shown(tmp_path):
    for mode, lr, own, iou in (("sin", 5e-4, {}, 0.9), ("sin+fr", 5e-3, {}, 0.8), ("sin+fr", 5e-4, {"lr": 5e-4}, 0.95)):
        write_other(tmp_path, "3d", "dragon", mode, {
            "network": {"hidden_features": 256}, "shape": [8, 8, 8], "epochs": 4, "batch": 100, "lr": lr},
            {"iou": iou, "chamfer": None, "f_score": 1.0}, own=own)
    rows = tables.volumes(tables.read_groups(tmp_path, ["3d/dragon"]))
    assert column(rows, "FR gain") == {"SIREN, lr 0.0005": "–", "SIREN + FR, lr 0.005": "-0.1000",
                                       "SIREN + FR, lr 0.0005": "+0.0500"}
    assert rows[0]["Chamfer"] == "–"


def test_the_error_in_frequency_stands_beside_the_authors_two_runs(tmp_path):
    for seed, error in enumerate((0.1, 0.3)):
        errors = dict.fromkeys(("1.5", "2.5", "3.5", "4.5"), error)
        write_other(tmp_path, "1d", "function", "relu+fr", {"steps": 10_000, "lr": 1e-6, "network": {}}, {
            "relative_error_at": {"1000": errors}, "relative_error": errors}, seed=seed)
    row, last = tables.relative_error(tables.read_groups(tmp_path, ["1d/function"]))
    assert row == {"network": "ReLU + FR", "step": "1,000", "here": ".200 .200 .200 .200", "± at most": ".141",
                   "the paper's heat maps": ".483 .798 .851 .849", "a second run of the authors": ".582 .831 .870 .866",
                   "seeds": "0 1"}
    assert (last["step"], last["the paper's heat maps"]) == ("10,000", ".024 .068 .141 .175")


def test_a_page_says_once_what_all_rows_share(tmp_path):
    for mode, psnr in (("sin", 20.0), ("sin+fr", 21.5)):
        write_record(tmp_path, mode, 0, psnr, options={"lr": 2}, lr=2e-4)
    assert tables.markdown(table(tmp_path, "2d/kodim05/lr=2")).splitlines() == [
        "All rows: image kodim05, size 768 × 512, steps 10,000, pixels a step all, seeds 0, device cpu.", "",
        "| network | PSNR (dB) | FR gain | SSIM | seconds |", "| --- | --- | --- | --- | --- |",
        "| SIREN | 20.00 | – | 0.500 | 10 |", "| SIREN + FR | 21.50 | +1.50 | 0.500 | 10 |"]


def test_what_is_no_network_of_the_paper_has_no_row_and_an_empty_folder_is_an_error(tmp_path):
    write_record(tmp_path, "coarse", 0, 20.0)
    write_record(tmp_path, "sin", 0, 20.0, own={"control": "projected"})
    assert tables.read_groups(tmp_path, ["2d/kodim05"]) == []
    with pytest.raises(UserError, match="no record in .*elsewhere"):
        tables.read_groups(tmp_path, ["2d/elsewhere"])
