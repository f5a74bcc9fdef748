#!/usr/bin/env bash
# ema-pytorch 0.8.3, with torch 2.13.0 (ema_pytorch/post_hoc_ema.py, PostHocEMA.synthesize_ema_model)
#
# One expects: an average of equal values is that value, so that a constant buffer comes out of an average as it was.
# What happens: the synthesized model is a sum of checkpoints with least-squares weights, which do not sum to 1. Buffers
# of floating point are summed likewise, also those with persistent=False, which no checkpoint holds. A buffer that is 1
# in the model and in each average ends at 1.0102. No warning is given.
#
# Output seen:
#   buffers of the averages: 1.0 1.0
#   buffer of the synthesized model: 1.0102
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 ema-pytorch==0.8.3 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import torch
from ema_pytorch import PostHocEMA


class Scaled(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.register_buffer("one", torch.ones(()), persistent=False)


model = Scaled()
average = PostHocEMA(model, sigma_rels=(0.05, 0.28), update_every=1, checkpoint_every_num_steps=20,
                     checkpoint_folder="checkpoints")
optimizer = torch.optim.Adam(model.parameters())
for _ in range(40):
    optimizer.zero_grad()
    model(torch.ones(1, 2)).square().sum().backward()
    optimizer.step()
    average.update()
averages = [one.ema_model.one.item() for one in average.ema_models]
synthesized = average.synthesize_ema_model(sigma_rel=0.15).ema_model.one.item()
print("buffers of the averages:", *averages)
print("buffer of the synthesized model:", round(synthesized, 4))
assert averages == [1, 1] and abs(synthesized - 1.0102) < 1e-3
END
