"""All benchmarks one after the other: at the paper's sizes on a GPU, at small ones, in about two minutes, on a CPU.

    python -m benchmarks [--device cpu]
"""

import subprocess
import sys
from pathlib import Path

from harness import cli
from harness.device import choose_device

# The arguments of each on a CPU, and on a GPU.
ARGUMENTS = {"ntk_1d": ("", ""),
             "step": ("--rounds 3", "--full"),
             "radiance_fields": ("--small --rounds 3", "")}


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    on_gpu = choose_device(args.device).type == "cuda"
    for name, arguments in ARGUMENTS.items():
        command = ["-m", f"benchmarks.{name}", "--device", args.device, *arguments[on_gpu].split()]
        print(f"\n== python {' '.join(command)}", flush=True)
        subprocess.run([sys.executable, *command], cwd=Path(__file__).parents[1], check=True)


if __name__ == "__main__":
    cli.run(main)
