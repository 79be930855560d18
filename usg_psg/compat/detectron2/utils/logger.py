"""Log to the terminal (main process) and to a file per process."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import time
from collections import Counter
from typing import IO

from tabulate import tabulate
from termcolor import colored

from .file_io import PathManager

__all__ = ["create_small_table", "log_every_n_seconds", "log_first_n", "setup_logger"]

_DATE_FORMAT = "%m/%d %H:%M:%S"
_times_logged: Counter[tuple] = Counter()
_last_logged: dict[tuple, float] = {}


class _TerminalFormatter(logging.Formatter):
    """Green prefix with an abbreviated logger name, coloured level from warnings upwards."""

    def __init__(self, name: str, abbreviation: str):
        super().__init__(colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt=_DATE_FORMAT)
        self.root = name + "."
        self.replacement = abbreviation + "." if abbreviation else ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        name = record.name
        record.name = name.replace(self.root, self.replacement, 1) if name.startswith(self.root) else name
        text = super().formatMessage(record)
        record.name = name  # the other handlers get the same record
        if record.levelno >= logging.WARNING:
            colour = "red" if record.levelno >= logging.ERROR else "yellow"
            text = colored(record.levelname, colour) + " " + text
        return text


@functools.lru_cache
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Give a logger its handlers; a second call with the same arguments adds none.

    Args:
        output: a folder, which gets `log.txt`, or a file ending in .txt or .log; None for no file. Process n > 0 writes
            to `<file>.rank<n>`.
        distributed_rank: number of this process; only process 0 writes to the terminal.
        name: the logger, usually a package.
        abbrev_name: replaces the name in terminal output; None makes "detectron2" "d2" and keeps others.
        enable_propagation: hand records on to parent loggers.
        configure_stdout: write to the terminal at all.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATE_FORMAT)

    if configure_stdout and distributed_rank == 0:
        terminal = logging.StreamHandler(sys.stdout)
        terminal.setFormatter(_TerminalFormatter(name, abbrev_name) if color else plain)
        logger.addHandler(terminal)
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            path = f"{path}.rank{distributed_rank}"
        to_file = logging.StreamHandler(_log_stream(path))
        to_file.setFormatter(plain)
        logger.addHandler(to_file)
    return logger


@functools.cache
def _log_stream(path: str) -> IO[str]:
    # One stream per file, shared by all loggers that write to it.
    PathManager.mkdirs(os.path.dirname(os.path.abspath(path)))
    stream = PathManager.open(path, "a")
    atexit.register(stream.close)
    return stream


def _caller() -> tuple[str, tuple]:
    frame = sys._getframe(2)  # the caller of the function that calls this one
    return frame.f_globals["__name__"], (frame.f_code.co_filename, frame.f_lineno)


def log_first_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | tuple = "caller") -> None:
    """Log a message the first n times only.

    Args:
        name: logger; None takes the calling module's.
        key: "caller" counts per calling line, "message" per text, both in a tuple per combination.
    """
    module, caller = _caller()
    keys = (key,) if isinstance(key, str) else key
    identity = (caller if "caller" in keys else None, msg if "message" in keys else None)
    _times_logged[identity] += 1
    if _times_logged[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log a message unless the same line logged one less than n seconds ago."""
    module, caller = _caller()
    now = time.monotonic()
    if caller not in _last_logged or now - _last_logged[caller] >= n:
        _last_logged[caller] = now
        logging.getLogger(name or module).log(lvl, msg)


def create_small_table(small_dict: dict) -> str:
    """A dict as a table with the keys as the header and one row of values."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
