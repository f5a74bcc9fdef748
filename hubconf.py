"""What `torch.hub.load` finds here, with nothing to install but PyTorch:

    fr = dict(low_freq_num=128, high_freq_num=128, phase_num=32, alpha=0.05)
    layer = torch.hub.load("path/of/this/repository", "FourierReparamLinear", 256, 256, **fr, source="local")
    model = torch.hub.load("path/of/this/repository", "build_inr", "relu+fr", in_features=2, out_features=3,
                           hidden_features=256, hidden_layers=3, **fr, source="local")

Both come from a package named `models`. In a project that has one of its own, `pip install` this repository, which is
then the package `fr_inr`, or copy `models/fourier_reparam.py`.
"""

from models import FourierReparamLinear, build_inr

__all__ = ["FourierReparamLinear", "build_inr"]

dependencies = ["torch"]
