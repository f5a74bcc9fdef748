#!/usr/bin/env bash
# accelerate 1.15.0, with torch 2.13.0 (accelerate/utils/modeling.py, load_checkpoint_in_model and
# set_module_tensor_to_device)
#
# One expects: what Accelerator.save_model writes, load_checkpoint_and_dispatch reads into the same model.
# What happens: a module with an extra state (torch.nn.Module.get_extra_state, here a tensor) is saved with it. Loading
# works without a device_map. With one, also {"": "cpu"}, accelerate sets each value of the file by its name. It takes
# the key for one of the model, as it is in the state_dict, and then finds no parameter or buffer of that name.
#
# Output seen:
#   saved: ['_extra_state', 'bias', 'weight']
#   without a device_map: 7.0
#   with one: ValueError: Stated(in_features=2, out_features=2, bias=True) does not have a parameter or a buffer named
#   _extra_state.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0 safetensors==0.8.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import torch
from accelerate import Accelerator, load_checkpoint_and_dispatch
from safetensors.torch import load_file


class Stated(torch.nn.Linear):
    def __init__(self, number):
        super().__init__(2, 2)
        self.number = number

    def get_extra_state(self):
        return torch.tensor([self.number])

    def set_extra_state(self, state):
        self.number = state.item()


Accelerator(cpu=True).save_model(Stated(7.0), "saved")
keys = sorted(load_file("saved/model.safetensors"))
print("saved:", keys)
loaded = load_checkpoint_and_dispatch(Stated(0.0), "saved")
print("without a device_map:", loaded.number)
message = "loaded"
try:
    load_checkpoint_and_dispatch(Stated(0.0), "saved", device_map={"": "cpu"})
except ValueError as error:
    message = f"ValueError: {error}"
print("with one:", message)
assert keys == ["_extra_state", "bias", "weight"] and loaded.number == 7
assert "does not have a parameter or a buffer named _extra_state" in message
END
