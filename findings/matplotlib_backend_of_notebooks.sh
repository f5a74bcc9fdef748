#!/usr/bin/env bash
# matplotlib 3.11.2 (lib/matplotlib/backends/registry.py, BackendRegistry.is_valid_backend)
#
# One expects: MPLBACKEND=module://NAME is looked up when pyplot makes its first figure. So it is: with a name that is
# nowhere, matplotlib is imported, and figures that are made without pyplot are drawn.
# What happens: one name is different. module://matplotlib_inline.backend_inline, which Jupyter and Colab set for all
# their child processes, is turned into the short name "inline". That is valid only where matplotlib-inline is installed.
# In any other environment `import matplotlib` itself fails, also for a program that only uses matplotlib.figure.
#
# Output seen:
#   module://no.such.backend: imported
#   module://matplotlib_inline.backend_inline: ValueError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet matplotlib==3.11.2 numpy==2.4.6
cd "$folder"
for name in no.such.backend matplotlib_inline.backend_inline; do
    outcome=$(MPLBACKEND=module://$name venv/bin/python -c 'import matplotlib.figure; print("imported")' 2>&1 |
              tail -n 1 | sed -E 's/^(imported|ValueError).*/\1/' || true)
    echo "module://$name: $outcome"
    echo "$outcome" >> outcomes
done
test "$(tr '\n' ' ' < outcomes)" = "imported ValueError "
