"""What surrounds a training: its command line, records, checkpoints, processes and figures."""

import os

# A notebook names a backend of its own, with which matplotlib may refuse to be imported. No figure here has a backend.
# Scripts import matplotlib by way of figures.py alone, so that this comes first.
os.environ.pop("MPLBACKEND", None)
