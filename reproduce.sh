#!/usr/bin/env bash
# Every figure and table of the README and of docs/, a line each: about seventeen hours on two CPU cores, and minutes
# for the lines with `on_gpu`, which are left out where there is none. Needs the environment of the README's first
# command, and the scene lego in data/nerf_synthetic (see data/README.md).
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

# Section 4: figures/1d_*.png; the tables of the loss and of the relative error.
python 1d_function_fitting.py --seeds 0 1 2
python 1d_relative_error_in_frequency.py

# Section 5, small: further rows of the tables of images and of volumes.
python 2d_image_fitting.py --quick
python 2d_image_fitting.py --downscale 4 --steps 500 --results results/quarter --figures figures/quarter
python 3D_occupance.py --quick
python 3D_occupance.py --shape dragon --scale 0.125 --epochs 25 --chunk 20000 --modes sin --lr 5e-3 --results results/eighth/sin_at_5e-3 --figures figures/eighth
python 3D_occupance.py --shape dragon --scale 0.125 --epochs 25 --chunk 20000 --seeds 0 1 2 --results results/eighth --figures figures/eighth

# Section 5, Kodak 05 at its own size: the table of images, and that of the pixels a step; figures/2d_kodim05_*.png of the
# largest number of pixels with all networks: 32,768 on a GPU, 8,192 without. All pixels take days on a CPU.
OMP_NUM_THREADS=1 python 2d_image_fitting.py --batch 8192 --results results/batch8192
OMP_NUM_THREADS=1 python 2d_image_fitting.py --batch 8192 --modes relu+pe+fr --hidden-lr 0.06081 --results results/batch8192/equal_step --figures figures/equal_step
on_gpu 2d_image_fitting.py --batch 32768 --results results/batch32768
on_gpu 2d_image_fitting.py --modes relu+pe+fr sin sin+fr --figures figures/paper
test ! -e figures/paper/2d_kodim05_psnr.png || cp figures/paper/2d_kodim05_psnr.png figures/2d_kodim05_all_pixels_psnr.png
on_gpu 1d_function_fitting.py --results results/h200 --figures figures/h200

# Section 5, the two volumes at their own size: figures/3d_thai_statue_*.png, figures/3d_dragon_*.png; the table of volumes.
OMP_NUM_THREADS=1 python 3D_occupance.py --shape thai_statue --epochs 4 --chunk 10000 --modes relu+pe relu+pe+fr sin sin+fr --results results/points10000
OMP_NUM_THREADS=1 python 3D_occupance.py --shape dragon --epochs 4 --chunk 10000 --modes sin sin+fr --results results/points10000 --figures figures/dragon
for shape in thai_statue dragon; do  # sine with FR at sine's rate
  at_5e4=results/points10000/sin+fr_at_5e-4 both=results/equal_rate/3d/$shape
  OMP_NUM_THREADS=1 python 3D_occupance.py --shape $shape --epochs 4 --chunk 10000 --modes sin+fr --lr 5e-4 --results $at_5e4 --figures figures/sin+fr_at_5e-4
  mkdir -p $both
  cp results/points10000/3d/$shape/sin-seed0.* $at_5e4/3d/$shape/sin+fr-seed0.* $both/
  python 3D_occupance.py --shape $shape --epochs 4 --chunk 10000 --modes sin sin+fr --lr 5e-4 --results results/equal_rate --figures figures/equal_rate
  cp figures/equal_rate/3d_${shape}_surfaces.png figures/3d_${shape}_sine_at_5e-4.png
done

# Section 5, small: the table of radiance fields.
python dvgo.py --quick --scene toy --seeds 0 1 2
python dvgo.py --quick --seeds 0 1 2
python InstantNGP.py --quick --scene toy --seeds 0 1 2
python InstantNGP.py --quick --seeds 0 1 2

# Section 5, larger, also at the plain network's step of W; figures/dvgo_lego_views.png, figures/radiance_fields_lego.png.
python dvgo.py --medium
python dvgo.py --medium --modes relu+fr --hidden-lr 0.04275 --results results/equal_step --figures figures/equal_step
python InstantNGP.py --medium
python InstantNGP.py --medium --modes relu+fr --hidden-lr 0.298 --results results/equal_step --figures figures/equal_step
cp figures/medium/dvgo_lego_views.png figures/medium/radiance_fields_lego.png figures/

# figures/step_size.png and its table, as far as there are records (without --draw: hours).
python -m studies.step_size --draw

# figures/overview.png, of the records above.
python -m studies.overview

# The tables, of the records above instead of the published ones.
python -m experiment.report --adopt results --as paper
python -m experiment.report --adopt results/quick
python -m experiment.report --adopt results/quarter
python -m experiment.report --adopt results/batch8192
test ! -d results/batch32768 || python -m experiment.report --adopt results/batch32768
test ! -d results/h200 || python -m experiment.report --adopt results/h200
python -m experiment.report --adopt results/batch8192/equal_step --as batch8192/equal_step
python -m experiment.report --adopt results/medium
python -m experiment.report --adopt results/equal_step/medium --as medium/equal_step
python -m experiment.report --adopt results/points10000
python -m experiment.report --adopt results/points10000/sin+fr_at_5e-4 --as points10000/sin+fr_at_5e-4
python -m experiment.report --adopt results/eighth
python -m experiment.report --adopt results/eighth/sin_at_5e-3 --as eighth/sin_at_5e-3
