"""The command line that all scripts share, and the one line that a mistake gets."""

import argparse
import math
import shlex
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from experiment.errors import UserError, describe


class Parser(argparse.ArgumentParser):
    """An argparse parser of a script that `run` calls: a mistake gets one line, and --debug its traceback."""

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                         allow_abbrev=False)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (--help lists the options)", file=sys.stderr)
        raise SystemExit(2)


def whole(smallest: int, largest: int = 10**9) -> Callable[[str], int]:
    """An argparse type: a whole number from `smallest` to `largest`."""
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = smallest - 1
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(f"must be a whole number from {smallest} to {largest}, not {text!r}")
        return value
    return parse


def positive(text: str) -> float:
    """An argparse type: a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a finite number above zero, not {text!r}")
    return value


def options(description: str | None, *, modes: Collection[str], default_modes: Collection[str], checkpoint_every: int,
            steps: int | None = None, epochs: int | None = None) -> argparse.ArgumentParser:
    """The options of every script; the caller adds what selects its data.

    Args:
        description: the script's docstring.
        modes: the networks to choose from, and `default_modes` those the paper compares.
        checkpoint_every: the default number of steps between checkpoints.
        steps, epochs: the paper's length of training, in the one or the other, for the help text.
    """
    parser = Parser(description)
    add = parser.add_argument
    add("--modes", nargs="+", choices=modes, default=list(default_modes), metavar="M",
        help=f"which networks, of {', '.join(modes)} (default: {' '.join(default_modes)})")
    add("--seeds", nargs="+", type=whole(0), default=[0], metavar="S", help="default 0")
    add("--device", default="auto", help="auto (CUDA where there is one; the default), cpu, cuda, cuda:N")
    add("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="default fp32, as published")
    if steps:
        add("--steps", type=whole(1), metavar="N", help=f"training steps (default: {steps:,})")
    if epochs:
        add("--epochs", type=whole(1), metavar="N", help=f"epochs of training (default: {epochs:,})")
    add("--lr", type=positive, help="learning rate (default: the paper's)")
    add("--alpha", type=positive, metavar="A", help="scale of the FR layers' basis (default: the paper's)")
    add("--hidden-lr", type=positive, default=1.0, metavar="F",
        help="multiply the learning rate of the hidden-to-hidden layers' weights, FR or ordinary (default: 1)")
    add("--quick", action="store_true",
        help="a small version, which takes about a minute on two CPU cores; writes below results/quick")
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="where data sets lie (default: data)")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    add("--figures", type=Path, default=Path("figures"), metavar="DIR", help="default: figures")
    add("--checkpoint-every", type=whole(1), default=checkpoint_every, metavar="N",
        help=f"optimizer steps from checkpoint to checkpoint, from where a run goes on (default: {checkpoint_every})")
    add("--force", action="store_true", help="train again what is finished")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options as given: repeated modes and seeds once, the folders of a quick run below `quick`, the command."""
    args = parser.parse_args(argv)
    args.modes = list(dict.fromkeys(args.modes))
    args.seeds = list(dict.fromkeys(args.seeds))
    if args.quick:
        args.results, args.figures = args.results / "quick", args.figures / "quick"
    args.command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])  # what its records keep
    return args


def settings(paper: dict[str, Any], quick: dict[str, Any], args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The paper's settings of a mode, with those of --quick and of the named options in the place of what they change.

    --alpha, where the mode has an FR layer, and --hidden-lr are among them for every script.
    """
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    chosen = {**paper, **(quick if args.quick else {}), **given}
    if args.alpha is not None and "alpha" in chosen["network"]:
        chosen["network"] = {**chosen["network"], "alpha": args.alpha}
    if args.hidden_lr != 1:
        chosen["hidden_lr"] = args.hidden_lr
    return chosen


def run(main: Callable[[], None]) -> None:
    """Call `main`; an error of the user's or the system's becomes one line on stderr and exit status 2."""
    try:
        main()
    except KeyboardInterrupt:
        print("\nstopped: the same command (without --force) goes on from the last checkpoint, if there is one",
              file=sys.stderr)
        raise SystemExit(130) from None
    except (UserError, OSError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"error: {describe(error)}", file=sys.stderr)
        raise SystemExit(2) from None
