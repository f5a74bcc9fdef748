"""What the networks are called in tables and figures."""

LABELS = {"relu": "ReLU", "relu+fr": "ReLU + FR", "relu+pe": "ReLU + PE", "relu+pe+fr": "ReLU + PE + FR",
          "sin": "Sin", "sin+fr": "Sin + FR"}


def baseline(mode: str) -> str:
    """The mode without its `+fr`."""
    return mode.removesuffix("+fr")
