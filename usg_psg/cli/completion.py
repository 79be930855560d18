"""Prints how a shell completes the commands and their options."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from inspect import getdoc

import shtab

from usg_psg_cli.commands import COMMANDS


def run(args: Namespace) -> int:
    """Print the shell's code."""
    parser = ArgumentParser("usg-psg")
    groups = {"": parser.add_subparsers()}
    for name, command in COMMANDS.items():
        group, _, word = name.rpartition(" ")
        line = (getdoc(command.arguments) or "").partition("\n")[0]
        child = groups[group].add_parser(word, help=line.replace("%", "%%"))
        command.arguments(child)
        if command.members:
            groups[name] = child.add_subparsers()
    print(shtab.complete(parser, args.shell))
    return 0
