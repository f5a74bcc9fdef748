"""Networks and what they are made of; nothing here knows of data, files or plots. Installed by pip it is `fr_inr`."""

from .backbones import MODES, Sine, build_inr, fold, reparameterize
from .encodings import PositionalEncoding
from .fourier_reparam import FourierReparamLinear
from .ntk import empirical_ntk

__all__ = ["MODES", "FourierReparamLinear", "PositionalEncoding", "Sine", "build_inr", "empirical_ntk", "fold",
           "reparameterize"]
