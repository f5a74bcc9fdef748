"""What surrounds a training: its command line, records, checkpoints, processes and figures."""

import os

# A notebook names a backend of its own, with which matplotlib may refuse to be imported. No figure here has a backend.
os.environ.pop("MPLBACKEND", None)
