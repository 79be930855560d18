"""Processes that share a program's work: killed ones, errors, an end on request."""

import multiprocessing
import os
import signal
import time

import pytest

from usg_psg.cli.processes import processes


def killed(share, stopped):
    yield None
    yield share
    os.kill(os.getpid(), signal.SIGKILL)
    yield "never"


def test_a_killed_process_is_no_silent_end():
    found, error = [], pytest.raises(ChildProcessError, match=r"signal 9 \(SIGKILL\); --resume goes on")
    with processes(killed, [("a",)], lambda: False, "fork") as results, error:
        found.extend(results)
    assert multiprocessing.active_children() == []


def wrong(share, stopped):
    yield None
    if share == "b":
        raise ValueError("b is wrong")
    time.sleep(60)


def test_an_error_of_one_process_ends_all():
    with pytest.raises(ValueError, match="b is wrong"), processes(wrong, ["a", "b"], lambda: False, "fork") as results:
        list(results)
    assert multiprocessing.active_children() == []


def until_told(share, stopped):
    yield None
    while not stopped():
        time.sleep(0.01)
        yield share
    yield f"last {share}"


def test_processes_end_when_they_are_told():
    seen = set()
    with processes(until_told, ["a", "b"], lambda: len(seen) == 2, "fork") as results:
        for result in results:
            seen.add(result)
    assert seen == {"a", "b", "last a", "last b"}, "nothing that was finished is lost"
