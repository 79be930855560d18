"""Log to the terminal (main process) and to a file per process."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
from typing import IO

from termcolor import colored

__all__ = ["setup_logger"]

_DATE_FORMAT = "%m/%d %H:%M:%S"


class _TerminalFormatter(logging.Formatter):
    """Green prefix, coloured level from warnings upwards; the logger's name is abbreviated."""

    def __init__(self, name: str, abbreviation: str):
        super().__init__("%(message)s", datefmt=_DATE_FORMAT)
        self.name, self.abbreviation = name, abbreviation

    def formatMessage(self, record: logging.LogRecord) -> str:
        name = self.abbreviation + record.name.removeprefix(self.name)
        prefix = colored(f"[{self.formatTime(record, _DATE_FORMAT)} {name}]: ", "green")
        if record.levelno >= logging.WARNING:
            prefix += colored(record.levelname, "red" if record.levelno >= logging.ERROR else "yellow") + " "
        return prefix + super().formatMessage(record)


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
        path += "" if distributed_rank == 0 else f".rank{distributed_rank}"
        to_file = logging.StreamHandler(_log_stream(path))
        to_file.setFormatter(plain)
        logger.addHandler(to_file)
    return logger


@functools.cache
def _log_stream(path: str) -> IO[str]:
    # One stream per file, shared by all loggers that write to it.
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    stream = open(path, "a", encoding="utf-8")
    atexit.register(stream.close)
    return stream
