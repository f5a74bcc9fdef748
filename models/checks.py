"""The checks of arguments that the networks share; `fourier_reparam.py` has its own, to be copied alone."""

import math
import operator
from numbers import Real


def as_count(name: str, value: int, smallest: int = 1) -> int:
    """`value` as an int; ValueError if it is not a whole number or lies below `smallest`."""
    if not hasattr(value, "__index__") or operator.index(value) < smallest:
        raise ValueError(f"{name} must be a whole number of at least {smallest}, not {value!r}")
    return operator.index(value)


def as_positive(name: str, value: float) -> float:
    """`value` as a float; ValueError if it is not a finite number above zero."""
    if not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be finite and above zero, not {value!r}")
    return float(value)
