"""Beyond the paper: python -m studies.<name>."""

import harness  # noqa: F401 - before matplotlib
