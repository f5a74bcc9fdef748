"""The command line that all scripts share: options, the settings they stand for, the one line that a mistake gets."""

import argparse
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from data.errors import UserError, describe

OWN_SETTINGS = ("lr", "alpha", "hidden_lr")  # the settings that a network may have of its own, in the order of a path


class Network(NamedTuple):
    """One of --modes: a mode, and the settings of its own that were given with it."""

    mode: str
    own: dict[str, float]


class Parser(argparse.ArgumentParser):
    """An argparse parser of a script that `run` calls: a mistake gets one line, and --debug its traceback."""

    sizes: argparse._MutuallyExclusiveGroup  # --quick, and --medium where there is one

    def __init__(self, description: str | None):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                         allow_abbrev=False)
        self.set_defaults(settings=())
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def add_setting(self, *names: str, **options: Any) -> None:
        """Add an option that decides the outcome, and so is a part of a run's path; without it the script's default."""
        setting = self.add_argument(*names, **options, default=None).dest
        self.set_defaults(settings=(*self.get_default("settings"), setting))

    def add_folders(self, *names: str) -> None:
        """Add options that name folders; each is by default the one of its name."""
        for name in names:
            self.add_argument(f"--{name}", type=folder, default=Path(name), metavar="DIR", help=f"default: {name}")

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


def folder(text: str) -> Path:
    """An argparse type: a path, in which ~ is the home folder."""
    return Path(os.path.expanduser(text))  # not Path.expanduser, which fails for a user who is not there


def network(modes: Collection[str]) -> Callable[[str], Network]:
    """An argparse type: a mode, then behind commas its own settings, as in sin+fr,lr=5e-4."""
    def parse(text: str) -> Network:
        mode, *pairs = text.split(",")
        if mode not in modes:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(modes)}, not {mode!r}")
        own = {}
        for pair in pairs:
            name, _, value = pair.partition("=")
            name = name.replace("-", "_")
            if name not in OWN_SETTINGS or name in own or (name == "alpha" and "+fr" not in mode):
                raise argparse.ArgumentTypeError(f"a network has lr=, hidden-lr=, alpha= (FR), each once; not {pair!r}")
            own[name] = positive(value)
        return Network(mode, {name: own[name] for name in OWN_SETTINGS if name in own})
    return parse


def options(description: str | None, *, modes: Sequence[str], default_modes: Sequence[str], checkpoint_every: int,
            steps: int | None = None, epochs: int | None = None) -> Parser:
    """The options of every script; the caller adds what selects its data.

    Args:
        description: the script's docstring.
        modes: the networks to choose from, and `default_modes` those the paper compares.
        checkpoint_every: the default number of steps between checkpoints.
        steps, epochs: the default length of training, in the one or the other, for the help text.
    """
    parser = Parser(description)
    parser.sizes = parser.add_mutually_exclusive_group()
    add = parser.add_argument
    add("--modes", nargs="+", type=network(modes), metavar="M",
        default=[Network(mode, {}) for mode in default_modes],
        help=f"which networks, of {', '.join(modes)}; with settings of its own as in relu+fr,lr=5e-4,hidden-lr=0.1")
    add("--seeds", nargs="+", type=whole(0), default=[0], metavar="S", help="default 0")
    add("--device", default="auto", help="auto (CUDA where there is one; the default), cpu, cuda, cuda:N")
    add("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="default fp32, as published")
    if steps:
        parser.add_setting("--steps", type=whole(1), metavar="N", help=f"training steps (default: {steps:,})")
    if epochs:
        parser.add_setting("--epochs", type=whole(1), metavar="N", help=f"epochs of training (default: {epochs:,})")
    add("--lr", type=positive, help="learning rate of all networks")
    add("--alpha", type=positive, metavar="A", help="scale of the basis of all FR layers")
    add("--hidden-lr", type=positive, metavar="F",
        help="factor on the learning rate of the hidden-to-hidden layers' weights, FR or ordinary (default: 1)")
    parser.sizes.add_argument(
        "--quick", action="store_const", const="quick", dest="size", default="",
        help="a small version, which takes up to two minutes on two CPU cores")
    parser.add_folders("data", "results", "figures")
    add("--checkpoint-every", type=whole(1), default=checkpoint_every, metavar="N",
        help=f"optimizer steps from checkpoint to checkpoint, from where a run goes on (default: {checkpoint_every})")
    add("--force", action="store_true", help="train again what is finished")
    return parser


def parse(parser: Parser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options as given: repeated networks and seeds once, and the command."""
    args = parser.parse_args(argv)
    args.modes = [chosen for place, chosen in enumerate(args.modes) if chosen not in args.modes[:place]]
    args.seeds = list(dict.fromkeys(args.seeds))
    args.command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])  # what its records keep
    return args


def resolve(args: argparse.Namespace, chosen: Network, paper: Mapping[str, Any],
            size: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """The settings of one network.

    Args:
        chosen: the network.
        paper: the script's default settings for its mode; `size` has what another size changes of them.

    Returns:
        First all settings. Then those that hold for all networks and differ from the default of this size. Then those
        of the network (lr, alpha, hidden_lr) that differ from its default.
    """
    default = {"hidden_lr": 1.0, **paper, **size}
    given = {name: value for name in args.settings if (value := getattr(args, name)) is not None}
    shared = {name: value for name, value in given.items() if value != default.get(name)}
    if args.precision != "fp32":
        shared["precision"] = args.precision
    alpha = default["network"].get("alpha")
    asked = {name: value for name in OWN_SETTINGS if (value := getattr(args, name)) is not None} | chosen.own
    default_own = {"lr": default["lr"], "hidden_lr": default["hidden_lr"], **({"alpha": alpha} if alpha else {})}
    own = {name: asked[name] for name in OWN_SETTINGS
           if name in asked and name in default_own and asked[name] != default_own[name]}
    config = {**default, **given, **{name: value for name, value in own.items() if name != "alpha"}}
    if "alpha" in own:
        config["network"] = {**config["network"], "alpha": own["alpha"]}
    return config, ({"size": args.size} if args.size else {}) | shared, own


def run(main: Callable[[], None]) -> None:
    """Call `main`; an error of the user's or the system's becomes one line on stderr and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that has no × gets a ?, and no traceback
            stream.reconfigure(errors="replace")
    os.environ["PYTHONIOENCODING"] = f"{sys.stdout.encoding}:replace"  # the same for the processes of a sweep
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
