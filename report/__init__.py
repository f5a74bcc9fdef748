import harness  # noqa: F401 - before matplotlib
