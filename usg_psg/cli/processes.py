"""Processes that do a share of a program's work each, with a GPU each or on the CPU, and hand their results back."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from ..engine.launch import ctrl_c_waits, take_place
from ..utils.program import EXPECTED
from ..utils.worker_pool import exit_text

STOP_SECONDS = 2.0


@contextmanager
def processes(
    work: Callable[..., Iterator[Any]], shares: Sequence[tuple], stopped: Callable[[], bool], method: str = "spawn"
) -> Iterator[Iterator[Any]]:
    """Call work(*share, stopped) in a process for each share; gives the results of all, as they come.

    Ctrl-C reaches this process alone; the others are told by `stopped`. At the end of the block they end, too.

    Args:
        work: importable by name; its generator begins with None, when it is ready, which is waited for.
        shares: arguments of each process.
        stopped: whether the others are to stop soon; asked twice a second, then told to them.
        method: how they are started; a process that has used a GPU cannot fork others that do.

    Raises:
        ValueError, OSError, ...: the expected error of a process, here or while results are taken.
        ChildProcessError: if a process was killed, or ended with an unexpected error, which it has printed.
    """
    context: Any = multiprocessing.get_context(method)
    stop = context.Event()
    running: dict[Connection, Any] = {}
    try:
        with ctrl_c_waits():
            for rank, share in enumerate(shares):
                ours, theirs = context.Pipe(duplex=False)
                arguments = (rank, len(shares), theirs, stop, work, share)
                process = context.Process(target=_serve, args=arguments, daemon=True)
                process.start()
                theirs.close()
                running[ours] = process
        for pipe in running:
            _receive(pipe, running[pipe])
        yield _results(running, stop, stopped)
    finally:
        for pipe, process in running.items():
            pipe.close()
            process.kill()
            process.join(STOP_SECONDS)


def _results(running: dict, stop: Any, stopped: Callable[[], bool]) -> Iterator[Any]:
    working = dict(running)
    while working:
        if stopped():
            stop.set()
        for pipe in wait(list(working), timeout=0.5):
            result, ended = _receive(pipe, working[pipe])
            if ended:
                del working[pipe]
            else:
                yield result


def _receive(pipe: Any, process: Any) -> tuple[Any, bool]:
    """A process's next result, and whether it was the last one; raises the error with which the process ended."""
    try:
        result, ended = pipe.recv()
    except (EOFError, OSError):
        process.join(STOP_SECONDS)
        text = f"one of the processes ended with {exit_text(process.exitcode)}; --resume goes on with the rest"
        raise ChildProcessError(text) from None
    if ended and result is not None:
        raise result
    return result, ended


def _serve(rank: int, count: int, pipe: Connection, stop: Any, work: Callable, share: tuple) -> None:
    """Body of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    take_place(rank, count)
    error = None
    with suppress(BrokenPipeError):  # the process that takes the results has ended
        try:
            for result in work(*share, stop.is_set):
                pipe.send((result, False))
        except BrokenPipeError:
            raise
        except EXPECTED as expected:
            error = expected
        pipe.send((error, True))
