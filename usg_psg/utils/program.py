"""What every program does with errors: one line for those that a user's input causes, a traceback for the others."""

from __future__ import annotations

import functools
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
