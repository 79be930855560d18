"""A function called for many numbers by processes that may die or hang.

`concurrent.futures` gives up on everything when one of its processes is killed and waits for ever for one that hangs;
a program that reads damaged files has to name the file instead.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

CHUNK = 16  # numbers a process is given at a time
_STOP_SECONDS = 2.0


@dataclass(frozen=True)
class Failure:
    """In place of a result: the process that computed it died or took too long."""

    message: str


def run_isolated(
    function: Callable[[int], Any], count: int, workers: int, timeout: float, attempts: int = 2
) -> Iterator[tuple[int, Any]]:
    """Call function(0), ..., function(count - 1) in other processes.

    A number whose process dies is tried again, as the process may have been killed for another reason; one that
    takes longer than timeout is not. Closing the generator, or an exception in its consumer, ends the processes.

    Args:
        function: gives something that can be pickled, and does not raise.
        count: how many numbers.
        workers: processes; 0 calls the function here, without protection.
        timeout: seconds for one call.
        attempts: how often a number is tried whose process dies.

    Yields:
        (number, result or `Failure`), in no particular order, each number once.
    """
    if workers == 0:
        yield from ((number, function(number)) for number in range(count))
        return
    pool = _Pool(function, count, min(workers, max(1, -(-count // CHUNK))), timeout, attempts)
    try:
        yield from pool.run()
    finally:
        pool.stop()


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    waiting: deque[int] = field(default_factory=deque)  # numbers it was given and has not answered, in order
    since: float = 0.0  # time of its last answer, or of its task


class _Pool:
    def __init__(self, function: Callable[[int], Any], count: int, workers: int, timeout: float, attempts: int):
        # Forked processes share what the function holds; elsewhere it is pickled once for each of them.
        methods = multiprocessing.get_all_start_methods()
        self.context = multiprocessing.get_context("fork" if "fork" in methods else None)
        self.function, self.timeout, self.attempts = function, timeout, attempts
        self.tasks: deque[Sequence[int]] = deque(range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK))
        self.deaths: dict[int, int] = {}
        self.workers: list[_Worker] = []
        for _ in range(workers):
            self.workers.append(self._start())

    def _start(self) -> _Worker:
        ours, theirs = self.context.Pipe()
        forked = self.context.get_start_method() == "fork"
        others = [w.pipe for w in self.workers] + [ours] if forked else []
        process = self.context.Process(target=_serve, args=(self.function, theirs, others), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def run(self) -> Iterator[tuple[int, Any]]:
        while self.tasks or any(w.waiting for w in self.workers):
            for worker in self.workers:
                if not worker.waiting and self.tasks:
                    self._give(worker, self.tasks.popleft())
            busy = [w for w in self.workers if w.waiting]
            ready = wait([w.pipe for w in busy], timeout=min(1.0, self.timeout / 4))
            for worker in busy:
                if worker.pipe in ready:
                    yield from self._receive(worker)
            now = time.monotonic()
            for worker in busy:
                if worker.waiting and now - worker.since > self.timeout and not worker.pipe.poll():
                    number = worker.waiting.popleft()
                    self._replace(worker)
                    yield number, Failure(f"reading it took more than {self.timeout:g} seconds")

    def _give(self, worker: _Worker, numbers: Sequence[int]) -> None:
        worker.waiting.extend(numbers)
        worker.since = time.monotonic()
        with suppress(OSError):  # if it died meanwhile, its end of the pipe says so to the next wait
            worker.pipe.send(list(numbers))

    def _receive(self, worker: _Worker) -> Iterator[tuple[int, Any]]:
        """Results that have come in; at the pipe's end, what becomes of the number that was being computed."""
        died = False
        try:
            while worker.pipe.poll():
                number, result = worker.pipe.recv()
                worker.waiting.popleft()
                worker.since = time.monotonic()
                yield number, result
        except (EOFError, OSError):
            died = True
        if not died or not worker.waiting:
            return
        number = worker.waiting.popleft()
        self.deaths[number] = self.deaths.get(number, 0) + 1
        worker.process.join(_STOP_SECONDS)
        failure = Failure(f"the process that read it ended with {exit_text(worker.process.exitcode)}")
        again = self.deaths[number] < self.attempts
        if again:
            self.tasks.append([number])
        self._replace(worker)
        if not again:
            yield number, failure

    def _replace(self, worker: _Worker) -> None:
        """A new process in a dead or hanging one's place; what it had left is dealt out again."""
        if worker.waiting:
            self.tasks.append(list(worker.waiting))
            worker.waiting.clear()  # or `run` would go on watching its closed pipe
        _end(worker)
        self.workers.remove(worker)
        self.workers.append(self._start())

    def stop(self) -> None:
        for worker in self.workers:
            _end(worker)


def _end(worker: _Worker) -> None:
    worker.pipe.close()
    # Processes hold nothing that an abrupt end could damage; SIGKILL also ends those that SIGTERM does not reach.
    worker.process.kill()
    worker.process.join(_STOP_SECONDS)


def exit_text(code: int | None) -> str:
    """An exit code of a process in words."""
    if code is not None and code < 0:
        return f"signal {-code} ({signal.Signals(-code).name})"
    return f"exit code {code}"


def _serve(function: Callable[[int], Any], pipe: Connection, inherited: list[Connection]) -> None:
    """Body of a process: lists of numbers in, one (number, result) out for each, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this process
    for other in inherited:
        other.close()  # a copy here would keep the others' pipes open after the parent's end
    try:
        while True:
            for number in pipe.recv():
                pipe.send((number, function(number)))
    except (EOFError, OSError):
        return
