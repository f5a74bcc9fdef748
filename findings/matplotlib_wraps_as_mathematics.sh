#!/usr/bin/env bash
# matplotlib 3.11.2 (lib/matplotlib/text.py, Text._get_rendered_text_width)
#
# One expects: with parse_math=False, or text.parse_math: False in the settings, a $ is a $, and a text such as
# r"$\frac$ is a name" is drawn as it stands.
# What happens: it is, as long as the text does not wrap. With wrap=True the width of each line is measured as
# mathematics all the same, so that drawing the figure raises the ValueError of the parser.
#
# Output seen:
#   wrap=False: drawn
#   wrap=True: ValueError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet matplotlib==3.11.2 numpy==2.4.6
cd "$folder"
env -u MPLBACKEND venv/bin/python - <<'END'
import io

from matplotlib.figure import Figure

seen = []
for wrap in (False, True):
    figure = Figure(figsize=(3, 1))
    figure.suptitle(r"$\frac$ is a name", wrap=wrap, parse_math=False)
    try:
        figure.savefig(io.BytesIO())
        seen.append("drawn")
    except ValueError:
        seen.append("ValueError")
    print(f"wrap={wrap}: {seen[-1]}")
assert seen == ["drawn", "ValueError"]
END
