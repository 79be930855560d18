"""A function called for many numbers by processes that may die or hang.

`concurrent.futures` gives up on everything when one of its processes is killed and waits for ever for one that hangs;
a program that reads damaged files has to name the file instead.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any

_STOP_SECONDS = 2.0


@dataclass(frozen=True)
class Failure:
    """In place of a result: the process that computed it died or took too long."""

    message: str


def run_isolated(function: Callable[[int], Any], count: int, workers: int, timeout: float) -> Iterator[tuple[int, Any]]:
    """Call function(0), ..., function(count - 1) in other processes.

    A number whose process dies is tried once more, as the process may have been killed for another reason; one that
    takes longer than timeout is not. Closing the generator, or an exception in its consumer, ends the processes.

    Args:
        function: gives something that can be pickled, and does not raise.
        workers: processes; 0 calls the function here, without protection.
        timeout: seconds for one call.

    Yields:
        (number, result or `Failure`), in no particular order, each number once.
    """
    if workers == 0:
        yield from ((number, function(number)) for number in range(count))
        return
    # Forked processes share what the function holds; elsewhere it is pickled once for each of them.
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else None)
    tasks, deaths = deque(range(count)), Counter[int]()
    idle: list[_Worker] = []
    busy: list[_Worker] = []
    try:
        while tasks or busy:
            while tasks and len(busy) < workers:
                worker = idle.pop() if idle else _Worker(context, function, [w.pipe for w in busy])
                busy.append(worker)
                worker.give(tasks.popleft())
            ready = wait([w.pipe for w in busy], timeout=min(1.0, timeout / 4))
            now = time.monotonic()  # of this moment: whoever takes the results may need as long as he likes
            for worker in [w for w in busy if w.pipe in ready or now - w.since > timeout]:
                result, died = Failure(f"reading it took more than {timeout:g} seconds"), False
                if worker.pipe in ready:
                    result, died = worker.result()
                deaths[worker.number] += died
                if isinstance(result, Failure):
                    worker.end()
                else:
                    idle.append(worker)
                busy.remove(worker)
                if died and deaths[worker.number] < 2:
                    tasks.append(worker.number)
                else:
                    yield worker.number, result
    finally:
        for worker in idle + busy:
            worker.end()


class _Worker:
    """A process, and the number that it was given."""

    def __init__(self, context: BaseContext, function: Callable[[int], Any], others: list[Connection]):
        self.pipe, theirs = context.Pipe()
        inherited = [*others, self.pipe] if context.get_start_method() == "fork" else []
        self.process = context.Process(target=_serve, args=(function, theirs, inherited), daemon=True)  # type: ignore[attr-defined]
        self.process.start()
        theirs.close()

    def give(self, number: int) -> None:
        self.number, self.since = number, time.monotonic()
        with suppress(OSError):  # if it died meanwhile, its end of the pipe says so to the next wait
            self.pipe.send(number)

    def result(self) -> tuple[Any, bool]:
        """The answer, and whether the process died instead."""
        try:
            return self.pipe.recv(), False
        except (EOFError, OSError):
            self.process.join(_STOP_SECONDS)
            return Failure(f"the process that read it ended with {exit_text(self.process.exitcode)}"), True

    def end(self) -> None:
        self.pipe.close()
        # Processes hold nothing that an abrupt end could damage; SIGKILL also ends those that SIGTERM does not reach.
        self.process.kill()
        self.process.join(_STOP_SECONDS)


def exit_text(code: int | None) -> str:
    """An exit code of a process in words."""
    if code is not None and code < 0:
        return f"signal {-code} ({signal.Signals(-code).name})"
    return f"exit code {code}"


def _serve(function: Callable[[int], Any], pipe: Connection, inherited: list[Connection]) -> None:
    """Body of a process: numbers in, a result out for each, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this process
    for other in inherited:
        other.close()  # a copy here would keep the others' pipes open after the parent's end
    with suppress(EOFError, OSError):
        while True:
            pipe.send(function(pipe.recv()))
