"""From words of the command line to the module of `usg_psg.cli` that does the work."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from inspect import getdoc
from pathlib import Path

from .arguments import parse_arguments
from .commands import COMMANDS

# How often a thread of the CPU's operators looks whether the others are done before it sleeps. GNU's OpenMP looks for
# milliseconds, which another process on one of two cores makes wait each time: steps of the quickstart took 7 to 16 s
# then, and 0.7 with this; alone 0.24 either way.
SPINS = "3000"


def program(*names: str) -> Callable[..., int]:
    """The `main` of a program that is one command, or several of which the first word chooses one."""

    def main(argv: list[str] | None = None, prog: str | None = None) -> int:
        words = sys.argv[1:] if argv is None else argv
        if len(names) == 1:
            members = COMMANDS[names[0]].members
            return program(*members)(words, prog) if members else _run(names[0], words, prog)
        parser = argparse.ArgumentParser(
            prog, formatter_class=argparse.RawDescriptionHelpFormatter, epilog="%(prog)s COMMAND --help says more."
        )
        by_word = {name.split()[-1]: name for name in names}
        if words and words[0] in by_word:
            return program(by_word[words[0]])(words[1:], f"{parser.prog} {words[0]}")
        rows = [f"  {word:<12}{_help(name).splitlines()[0]}" for word, name in by_word.items()]
        parser.description = "\n".join(["Commands:", *rows])
        parser.add_argument("command", choices=by_word, metavar="COMMAND")
        parser.parse_args(words)  # ends with the help or an error
        return 2

    return main


main = program(*(name for name in COMMANDS if " " not in name))


def parse(name: str, words: list[str], prog: str | None = None) -> argparse.Namespace:
    """The arguments of a command; SystemExit where they are wrong, or ask for help.

    Args:
        name: of the command, two words for one of a group.
        words: that stand behind it.
        prog: the program's name in messages; None for that of the file that runs.
    """
    return parse_arguments(COMMANDS[name].arguments, words, _help(name), prog)


def _help(name: str) -> str:
    return getdoc(COMMANDS[name].arguments) or ""


def _run(name: str, words: list[str], prog: str | None = None) -> int:
    command = COMMANDS[name]
    args = parse(name, words, prog)
    if find_spec("torch") is None:
        # Of the bundled engine, which cannot be chosen then, Python would say that it is missing.
        where = "is the environment active in which usg_psg is installed?"
        print(f"{Path(sys.argv[0]).name}: {sys.executable} has no PyTorch: {where}", file=sys.stderr)
        return 1
    first = "torch" not in sys.modules
    if first and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPINS
    with _ctrl_c_ends_at_once():
        if first:
            gc.disable()  # what imports make stays: to search it for garbage takes an eighth of their time
        try:
            run = getattr(import_module(f"usg_psg.cli.{command.module}"), command.function)
            one_line_errors = import_module("usg_psg.utils.program").one_line_errors
        finally:
            if first:
                gc.freeze()
                gc.enable()
    return one_line_errors(run)(args)


@contextmanager
def _ctrl_c_ends_at_once() -> Iterator[None]:
    """Ctrl-C during imports ends the program in one line; not where it is ignored, as in a script's background."""

    def end(_number: int, _frame: object) -> None:
        os.write(2, f"{Path(sys.argv[0]).name}: interrupted\n".encode())
        os._exit(130)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
