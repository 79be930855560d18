"""Prints how a shell completes the commands and their options."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from inspect import getdoc

import shtab

from usg_psg_cli.commands import COMMANDS


def run(args: Namespace) -> int:
    """Print the shell's code."""
    parser = ArgumentParser("usg-psg")
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        line = (getdoc(command.arguments) or "").partition("\n")[0]
        command.arguments(commands.add_parser(name, help=line.replace("%", "%%")))
    print(shtab.complete(parser, args.shell))
    return 0
