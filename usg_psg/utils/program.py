"""What every program does with errors: one line for those that a user's input causes, a traceback for the others.

And how it reads the numbers of its command line.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

TRACEBACK_VARIABLE = "USG_PSG_TRACEBACK"  # set: every error keeps its traceback
BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130  # exit statuses; the last as shells have it
# Bad arguments and data, files and disks; a loss that is not finite.
EXPECTED = (ValueError, OSError, FloatingPointError)
# Not of the program's input: a loss that is not finite, a process that was killed.
FAILURES = (FloatingPointError, ChildProcessError)
TERMINAL = {"terminal": True}  # `extra` of a log record that a user at the terminal wants to see, too


def one_line_errors(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorate a program's `main`: an expected error becomes one line and status 2, Ctrl-C one line and status 130."""

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            if getattr(signal.getsignal(signal.SIGINT), "__module__", "") == "ctrl_c":  # of the imports
                signal.signal(signal.SIGINT, signal.default_int_handler)
            return main(*args, **kwargs) or 0
        except KeyboardInterrupt:
            say("interrupted")
            return INTERRUPTED
        except BrokenPipeError:
            # Whoever read the output has gone, as `head` does; nothing more can be said.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except EXPECTED as error:
            return report(error)

    return run


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


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add --trust-imports, for `build_cfg`, to a program that reads a recipe."""
    parser.add_argument(
        "--trust-imports", action="store_true", help="run the modules that IMPORTS names in a file outside this folder"
    )


def parse_with_overrides(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The arguments of a program whose `opts` take the rest of the line, but for options that stand behind them.

    Args:
        parser: without required options.
        argv: the words of the command line; None for the program's own.
    """
    arguments, overrides = parser.parse_args(argv), []
    while options := [place for place, word in enumerate(arguments.opts) if re.match("--[a-z]", word)]:
        overrides += arguments.opts[: options[0]]
        rest, arguments.opts = arguments.opts[options[0] :], []
        arguments = parser.parse_args(rest, arguments)
    arguments.opts = overrides + arguments.opts
    return arguments


def positive_number(text: str) -> float:
    """Type of an argument that measures something."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected more than 0, got {text}")
    return value


def score(text: str) -> float:
    """Type of an argument from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, got {text}")
    return value


class Interruption:
    """Ctrl-C as something to look for between two pieces of work; inside the `with` block, the second one ends at once.

    An exception that Ctrl-C raises wherever the program is may leave half of something behind, or is lost if it meets a
    destructor.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Interruption:
        # What a script starts in the background ignores Ctrl-C, and is to go on doing so.
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        if threading.current_thread() is threading.main_thread() and not ignored:
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self.asked:
            raise KeyboardInterrupt


def report(error: Exception) -> int:
    """Say an expected error on the error output; returns the exit status."""
    if os.environ.get(TRACEBACK_VARIABLE):
        raise error
    say(f"error: {error_line(error)}")
    return FAILED if isinstance(error, FAILURES) else BAD_INPUT


def say(text: str) -> None:
    """One line on the error output, under the program's name."""
    sys.stdout.flush()
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)


def error_line(error: Exception) -> str:
    """An error's message in one line."""
    if isinstance(error, OSError) and error.errno:
        error = _with_file(error)
        if error.filename and error.strerror:
            return f"{error.filename}: {error.strerror}"
    text = str(error).strip() or type(error).__name__
    if "Original Traceback" in text:
        # torch's loader hands on an error of its workers with their traceback; the message is the last line.
        text = re.sub(r"^[\w.]+: ", "", text.splitlines()[-1])
    return " ".join(text.split())


def _with_file(error: OSError) -> OSError:
    """The error that names a file, where this one was met while that one was handled (a full disk fails many times)."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.filename:
            return seen
        seen = seen.__context__
    return error
