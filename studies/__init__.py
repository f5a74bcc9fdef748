"""Beyond the paper: python -m studies.<name>."""
