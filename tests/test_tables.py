"""The tables that are made from records; test_readme.py has those of the published ones."""

import pytest
from conftest import write_record

from data.errors import UserError
from report import tables


def table(records, *folders):
    return tables.table("images", tables.read_groups(records, folders))


def column(rows, name):
    return {row["network"]: row[name] for row in rows}


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
    write_record(tmp_path, "relu+pe", 0, 10.0, own={"hidden_lr": 3.0}, hidden_lr=3.0)
    write_record(tmp_path, "relu+pe+fr", 0, 30.0)
    gains = column(table(tmp_path, "2d/kodim05", "2d/kodim05/batch=4096"), "FR gain")
    assert gains == {"SIREN": "–", "SIREN, hidden lr × 3": "–", "SIREN + FR": "+3.00",
                     "SIREN + FR, hidden lr × 0.3": "+1.00", "ReLU": "–", "ReLU + FR": "–",
                     "ReLU + PE, hidden lr × 3": "–", "ReLU + PE + FR": "–"}


def test_an_image_with_fewer_values_than_weights_shows_no_gain(tmp_path):
    network = {"hidden_features": 256, "hidden_layers": 3}  # 196,608 weights
    for mode, psnr in (("sin", 20.0), ("sin+fr", 40.0)):
        write_record(tmp_path, mode, 0, psnr, options={"downscale": 4}, shape=[128, 192, 3], network=network)
        write_record(tmp_path, mode, 0, psnr, options={"downscale": 2}, shape=[256, 384, 3], network=network)
    small, large = (table(tmp_path, f"2d/kodim05/downscale={factor}")[1]["FR gain"] for factor in (4, 2))
    assert (small, large) == ("–", "+20.00")


def test_what_is_no_network_of_the_paper_has_no_row_and_an_empty_folder_is_an_error(tmp_path):
    write_record(tmp_path, "coarse", 0, 20.0)
    write_record(tmp_path, "sin", 0, 20.0, own={"control": "projected"})
    assert tables.read_groups(tmp_path, ["2d/kodim05"]) == []
    with pytest.raises(UserError, match="no record in .*elsewhere"):
        tables.read_groups(tmp_path, ["2d/elsewhere"])
