"""How far Adam's first step moves the hidden W of each network, beside κ, which is of a gradient without structure.

    python -m studies.first_step        1D, and Kodak 05 and the dragon at the sizes of studies.step_size; seconds

Takes the first step on the script's own loss from the networks' start (seed 0). Prints for each hidden-to-hidden layer
how far an element of W moves, root mean square, in units of the learning rate. Also prints the share of the layer's
trained weights that have no gradient there.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.images import pixel_grid
from data.signals import square_like_wave
from data.volumes import voxel_coordinates
from harness import cli
from models import FourierReparamLinear, build_inr, fold
from models.step_scale import step_scale

LR = 1e-6  # as small as it may be in float32


def batch_1d(*_) -> tuple[Tensor, Tensor]:
    """The 300 points of the 1D function, and its values."""
    return square_like_wave()


def batch_2d(script: ModuleType, folder: Path) -> tuple[Tensor, Tensor]:
    """4,096 pixels of Kodak 05 at half of its sides, and their colors."""
    image, = script.load(script.parse(["--image", "5", "--downscale", "2", "--data", str(folder)])).values()
    x, target = pixel_grid(image, torch.device("cpu"))
    pixels = torch.randperm(len(x))[:4096]
    return x[pixels], target[pixels]


def batch_3d(script: ModuleType, folder: Path) -> tuple[Tensor, Tensor]:
    """20,000 voxels of the dragon at an eighth of its sides, and whether each is full."""
    args = script.parse(["--shape", "dragon", "--downscale", "8", "--data", str(folder)])
    (volume, _), = script.load(args).values()
    voxels = torch.randperm(volume.size)[:20_000]
    return voxel_coordinates(voxels, volume.shape), torch.from_numpy(volume).flatten()[voxels, None].float()


EXPERIMENTS = {"1D": ("1d_function_fitting", batch_1d, ("relu", "sin")),
               "2D": ("2d_image_fitting", batch_2d, ("relu", "relu+pe", "sin")),
               "3D": ("3D_occupance", batch_3d, ("relu", "relu+pe", "sin"))}


def hidden(model: nn.Sequential) -> list[Tensor]:
    """Copies of the hidden-to-hidden W, which are square."""
    weights = [layer.weight.detach() for layer in fold(model).modules() if isinstance(layer, nn.Linear)]
    return [weight.clone() for weight in weights if weight.shape[0] == weight.shape[1]]


def first_step(model: nn.Sequential, x: Tensor, target: Tensor) -> tuple[list[float], list[float]]:
    """Take Adam's first step; by hidden layer, how far W moves over LR, and the share of weights without a gradient."""
    before, optimizer = hidden(model), torch.optim.Adam(model.parameters(), lr=LR)
    F.mse_loss(model(x), target).backward()
    optimizer.step()
    steps = [((now - then).square().mean().sqrt() / LR).item() for now, then in zip(hidden(model), before)]
    gradients = [values.grad for values in model.parameters() if values.ndim == 2 and values.grad is not None]
    return steps, [1 - gradient.count_nonzero().item() / gradient.numel() for gradient in gradients[1:-1]]


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_folders("data")
    args = parser.parse_args()
    print(f"{'':<4}{'network':<12}{'κ':>7}   {'step of W / learning rate':<28}without a gradient")
    for name, (of_name, batch, backbones) in EXPERIMENTS.items():
        script = import_module(of_name)
        torch.manual_seed(0)
        x, target = batch(script, args.data)
        for mode in (mode for backbone in backbones for mode in (backbone, f"{backbone}+fr")):
            torch.manual_seed(0)
            model = build_inr(mode, **script.SETTINGS[mode]["network"])
            kappa = [step_scale(layer) for layer in model.modules() if isinstance(layer, FourierReparamLinear)]
            steps, still = first_step(model, x, target)
            print(f"{name:<4}{mode:<12}{kappa[0] if kappa else 1:>7.3g}   "
                  f"{'  '.join(f'{step:.3f}' for step in steps):<28}{'  '.join(f'{share:.0%}' for share in still)}")


if __name__ == "__main__":
    cli.run(main)
