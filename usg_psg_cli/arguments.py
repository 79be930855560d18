"""Arguments that several programs share, and the types of their values. Imports nothing heavy."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path


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


def existing_file(text: str) -> Path:
    """Type of an argument that names a file to read."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)


def existing_folder(text: str) -> Path:
    """Type of an argument that names a folder to read."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text)


def in_existing_folder(text: str) -> Path:
    """Type of an argument that names what is to be written into a folder that is there."""
    existing_folder(str(Path(text).absolute().parent))
    return Path(text)


def add_config(parser: argparse.ArgumentParser, opts: str = "--opts", nargs: str | None = None) -> None:
    """Add the recipe, --trust-imports and the overrides, for `usg_psg.cli.config_of`."""
    parser.add_argument("--config-file", required=True, nargs=nargs, metavar="FILE", help="recipe of the model")
    add_trust(parser)
    parser.add_argument(opts, nargs="*", default=[], help="KEY VALUE or KEY=VALUE overrides of the recipe")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add --trust-imports to a program that reads a recipe."""
    parser.add_argument(
        "--trust-imports", action="store_true", help="run the modules that IMPORTS names in a file outside this folder"
    )


def parse_with_overrides(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The arguments of a program, where options may stand behind `opts` that take the rest of the line.

    Args:
        parser: without required options, if it has such `opts`.
        argv: the words of the command line; None for the program's own.
    """
    arguments, overrides = parser.parse_args(argv), []
    while options := [i for i, word in enumerate(getattr(arguments, "opts", ())) if re.match("--[a-z]", word)]:
        overrides += arguments.opts[: options[0]]
        rest, arguments.opts = arguments.opts[options[0] :], []
        arguments = parser.parse_args(rest, arguments)
    if overrides:
        arguments.opts = overrides + arguments.opts
    return arguments
