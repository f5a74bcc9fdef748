"""Networks and what they are made of; nothing here knows of data, files or plots."""

from models.backbones import MODES, Sine, build_inr, fold, parameter_groups
from models.encodings import PositionalEncoding
from models.fourier_reparam import FourierReparamLinear
from models.ntk import empirical_ntk

__all__ = ["MODES", "FourierReparamLinear", "PositionalEncoding", "Sine", "build_inr", "empirical_ntk", "fold",
           "parameter_groups"]
