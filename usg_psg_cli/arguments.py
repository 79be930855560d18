"""Arguments that several programs share, and the types of their values. Imports nothing heavy."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable

Check = Callable[[argparse.Namespace], None]  # of several arguments together; raises ValueError
Define = Callable[[argparse.ArgumentParser], Check | None]


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Type of an argument that is a whole number of at least and, if that is given, at most this."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
        if value < least or (most is not None and value > most):
            wanted = f"{least} or more" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {value}")
        return value

    return convert


positive_integer = whole_number(1)  # of an argument that counts something


def positive_number(text: str) -> float:
    """Type of an argument that measures something."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected more than 0, got {text}")
    return value


def score(text: str) -> float:
    """Type of an argument from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, got {text}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def numbers(text: str) -> list[int]:
    """Type of an argument such as "0,1,5-7", which is [0, 1, 5, 6, 7]."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"expected numbers such as 0,1,5-7, got {text!r}")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def add_number(
    parser: argparse.ArgumentParser, name: str, kind: Callable, default: float | None, text: str, metavar: str = "N"
) -> None:
    """Add an option whose help says the default, which is all if it is None."""
    shown = "all" if default is None else f"{default:g}"
    parser.add_argument(name, type=kind, default=default, metavar=metavar, help=f"{text} (default {shown})")


def add_config(
    parser: argparse.ArgumentParser, opts: str = "--opts", nargs: str | None = None, required: bool = True
) -> None:
    """Add the recipe, --trust-imports and the overrides, for `usg_psg.cli.config_of`."""
    own = "" if required else "; default: the config that --weights has"
    parser.add_argument(
        "--config-file", required=required, nargs=nargs, metavar="FILE", help=f"recipe of the model{own}"
    )
    add_trust(parser)
    parser.add_argument(opts, nargs="*", default=[], help="KEY VALUE or KEY=VALUE overrides of the recipe")


def add_weights(parser: argparse.ArgumentParser, nargs: str | None = None, required: bool = False) -> None:
    """Add --weights, for `usg_psg.cli.config_of`."""
    text = "checkpoint of a training, folder of a model, or user/model on the Hugging Face Hub"
    parser.add_argument("--weights", required=required, nargs=nargs, metavar="MODEL", help=text)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add --trust-imports to a program that reads a recipe."""
    trust = "run the modules that IMPORTS names in a file outside this folder, or in a checkpoint"
    parser.add_argument("--trust-imports", action="store_true", help=trust)


def parse_arguments(
    define: Define, argv: list[str] | None, description: str | None, prog: str | None = None
) -> argparse.Namespace:
    """The arguments of a program; SystemExit where they are wrong, or ask for help.

    Options may stand behind `opts` that take the rest of the line; there must be no required ones then.

    Args:
        define: adds the arguments to a parser. It may return a check of them together.
        argv: the words of the command line; None for the program's own.
        description: the help's first part.
        prog: the program's name in messages; None for that of the file that runs.
    """
    parser = argparse.ArgumentParser(
        prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    check = define(parser)
    args, overrides = parser.parse_args(argv), []
    while options := [i for i, word in enumerate(getattr(args, "opts", ())) if re.match("--[a-z]", word)]:
        overrides += args.opts[: options[0]]
        rest, args.opts = args.opts[options[0] :], []
        args = parser.parse_args(rest, args)
    if overrides:
        args.opts = overrides + args.opts
    try:
        if check is not None:
            check(args)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    return args
