"""What the networks are called in tables and figures."""

from typing import Any

LABELS = {"relu": "ReLU", "relu+fr": "ReLU + FR", "relu+pe": "ReLU + PE", "relu+pe+fr": "ReLU + PE + FR",
          "sin": "Sin", "sin+fr": "Sin + FR"}


def baseline(mode: str) -> str:
    """The mode without its `+fr`."""
    return mode.removesuffix("+fr")


def step_settings(config: dict[str, Any], alpha: float | None) -> list[str]:
    """What a run's config says of the steps of its hidden weights where that is not the paper's.

    Args:
        alpha: the paper's, where it is known and the network has FR.
    """
    found = []
    if alpha is not None and config["network"].get("alpha", alpha) != alpha:
        found.append(f"α {config['network']['alpha']:g}")
    if "hidden_lr" in config:
        found.append(f"hidden lr × {config['hidden_lr']:.3g}")
    return found
