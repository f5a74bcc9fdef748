#!/usr/bin/env bash
# Every figure and table of the README and of docs/, a line each. Needs the environment of the README's first command,
# and the scene lego in data/nerf_synthetic (see data/README.md). Lines with `on_gpu` are left out where there is none.
# A run that is finished is not trained again, and one that was stopped goes on.
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/.venv/bin:$PATH"
test -d data/nerf_synthetic/lego || { echo "data/nerf_synthetic/lego is missing, see data/README.md" >&2; exit 2; }

export CUDA_VISIBLE_DEVICES=  # the other rows are of a CPU
on_gpu() {
  if env -u CUDA_VISIBLE_DEVICES python -c "import torch; raise SystemExit(not torch.cuda.is_available())"; then
    env -u CUDA_VISIBLE_DEVICES python "$@"
  else
    echo "no GPU: left out: $*"
  fi
}

# Section 4: six minutes.
python 1d_function_fitting.py --seeds 0 1 2
python 1d_relative_error_in_frequency.py --seeds 0 1 2
on_gpu 1d_function_fitting.py

# Section 5, Kodak 05: all pixels a step, and fewer.
on_gpu 2d_image_fitting.py --modes relu+pe+fr sin sin+fr
on_gpu 2d_image_fitting.py --batch 32768
OMP_NUM_THREADS=1 python 2d_image_fitting.py --batch 8192 --modes relu relu+fr relu+pe relu+pe+fr relu+pe+fr,hidden-lr=0.06081 sin sin+fr
python 2d_image_fitting.py --batch 8192 --modes sin sin+fr  # the figure of these two

# Section 5, volumes. The dragon at an eighth of its sides, three seeds; both volumes whole, four epochs.
python 3D_occupance.py --shape dragon --epochs 25 --downscale 8 --batch 20000 --seeds 0 1 2
python 3D_occupance.py --shape dragon --epochs 25 --downscale 8 --batch 20000 --modes sin,lr=5e-3
python 3D_occupance.py --shape thai_statue --epochs 4 --downscale 2 --batch 10000 --modes sin sin+fr sin+fr,lr=5e-4
OMP_NUM_THREADS=1 python 3D_occupance.py --shape thai_statue --epochs 4 --batch 10000 --modes relu+pe relu+pe+fr sin sin+fr sin+fr,lr=5e-4
OMP_NUM_THREADS=1 python 3D_occupance.py --shape dragon --epochs 4 --batch 10000 --modes sin sin+fr sin+fr,lr=5e-4

# Section 5, radiance fields: small with three seeds, and half of lego's sides also at the plain network's step of W.
python dvgo.py --quick --seeds 0 1 2
python dvgo.py --quick --scene lego --seeds 0 1 2
python InstantNGP.py --quick --seeds 0 1 2
python InstantNGP.py --quick --scene lego --seeds 0 1 2
python dvgo.py --medium --modes relu relu+fr relu+fr,hidden-lr=0.04275
python InstantNGP.py --medium --modes relu relu+fr relu+fr,hidden-lr=0.298
python InstantNGP.py --medium  # the figure of these two

# figures/step_size.png and its table (without --draw they are trained: hours), and figures/overview.png.
python -m studies.step_size --draw
python -m studies.controls --draw
python -m studies.first_step
python -m report.overview

# docs/performance.md.
python -m benchmarks
python -m benchmarks.radiance_fields

# The tables of the pages, of the records above instead of the published ones.
python -m report --adopt results
