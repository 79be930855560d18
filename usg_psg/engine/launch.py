"""Starts the processes of a run: one per GPU by itself, or those that torchrun has started."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing import resource_tracker
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from ..utils.program import EXPECTED, INTERRUPTED, report, say

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)
# Seconds: Ctrl-C at a terminal reaches a process twice at once, directly and passed on by the one that started it.
SECOND_CTRL_C = 0.5
TIMEOUT = timedelta(minutes=30)  # of the processes' communication; evaluation on one of them may take a while


def launch(
    main: Callable[..., Any],
    num_gpus: int,
    *,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
) -> None:
    """Call `main(*args)` in every process of the run.

    Under torchrun (which sets RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE) this process is one of them, and the
    other arguments do not matter. Otherwise `num_gpus` processes are started here, over NCCL with a GPU each, or over
    gloo on a machine without GPUs; with one process in all, `main` runs in this one.

    Args:
        main: importable by name in a new process.
        num_gpus: processes of this machine.
        num_machines, machine_rank: of the job, and the number of this one.
        dist_url: where the processes meet, "tcp://HOST:PORT"; None or "auto" for a free port of this machine.
        args: of main.

    Raises:
        ValueError: if there are fewer GPUs than processes, several machines without a dist_url, or its port is in use.
        SystemExit: if one of the started processes ended with another status than 0.
    """
    if under_torchrun():
        check_gpus(int(os.environ["LOCAL_WORLD_SIZE"]))
        run_process("env://", main, args)
        return
    check_gpus(num_gpus)
    if num_gpus * num_machines == 1:
        main(*args)
        return
    if dist_url in (None, "auto"):
        if num_machines > 1:
            raise ValueError("several machines need --dist-url tcp://HOST:PORT, the same on each of them")
        dist_url = f"tcp://127.0.0.1:{free_port()}"
    elif machine_rank == 0:
        check_port(dist_url)
    sizes = {"LOCAL_WORLD_SIZE": num_gpus, "WORLD_SIZE": num_gpus * num_machines}
    given = (machine_rank * num_gpus, sizes, dist_url, multiprocessing.get_start_method(), main, args)
    with ctrl_c_waits():
        processes = mp.start_processes(_start, args=given, nprocs=num_gpus, join=False, start_method="spawn")
    _join(processes)


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Have processes that are started inside ignore Ctrl-C until their imports are done."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first process would start it, which lets Ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stop_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Have the main thread call handler(number, frame) for signals to stop inside, and as before afterwards.

    Those that are ignored stay so, as Ctrl-C in the background of a script, and the terminal's end under nohup.
    """
    in_main = threading.current_thread() is threading.main_thread()
    numbers = [number for number in STOP_SIGNALS if in_main and signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _join(processes: mp.ProcessContext) -> None:
    """Wait for all processes; a signal to end the run is passed on to them, and their status to the caller."""
    first_ctrl_c = float("inf")

    def pass_on(number: int, _frame: object) -> None:
        nonlocal first_ctrl_c
        again = number == signal.SIGINT and time.monotonic() - first_ctrl_c > SECOND_CTRL_C
        if number == signal.SIGINT:
            first_ctrl_c = min(first_ctrl_c, time.monotonic())
        for pid in processes.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if again else number)
        if again:
            raise KeyboardInterrupt

    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it tells of each process that it ends
    try:
        with stop_signals(pass_on):
            while not processes.join():
                pass
    except mp.ProcessExitedException as error:
        # It has said why, unless a signal killed it.
        raise SystemExit(error.exit_code if error.exit_code >= 0 else 128 - error.exit_code) from None


def under_torchrun() -> bool:
    """Whether this process was started by torchrun, or something that sets the same variables."""
    return all(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))


def is_first_process(machine_rank: int) -> bool:
    """Whether this process is torchrun's first, or starts the first of the run."""
    return os.environ["RANK"] == "0" if under_torchrun() else machine_rank == 0


def number_of_processes(num_gpus: int, num_machines: int) -> int:
    """Processes of the whole run: torchrun's, or those that `launch` is going to start; checks its GPUs."""
    check_gpus(int(os.environ["LOCAL_WORLD_SIZE"]) if under_torchrun() else num_gpus)
    return int(os.environ["WORLD_SIZE"]) if under_torchrun() else num_gpus * num_machines


def check_gpus(num_gpus: int) -> None:
    """Raise ValueError if fewer GPUs are present than asked for; without any, processes run on the CPU."""
    present = torch.cuda.device_count()
    if num_gpus < 1:
        raise ValueError(f"--num-gpus: expected 1 or more, got {num_gpus}")
    if 0 < present < num_gpus:
        raise ValueError(f"not enough GPUs: {num_gpus} processes of this machine need one each, it has {present}")


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check_port(dist_url: str) -> None:
    """Raise ValueError if the port of a tcp:// address on this machine is taken."""
    _, _, place = dist_url.partition("tcp://")
    host, _, port = place.rpartition(":")
    if not port.isdigit():
        raise ValueError(f"--dist-url: expected tcp://HOST:PORT, got {dist_url!r}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise ValueError(
                f"--dist-url {dist_url}: {error.strerror}; is another run going on? '--dist-url auto' takes a free port"
            ) from error


def _start(
    local_rank: int,
    first_rank: int,
    sizes: dict[str, int],
    dist_url: str,
    start_method: str,
    main: Callable[..., Any],
    args: tuple,
) -> None:
    # A spawned process would spawn its own ones too: loader processes that each import everything anew, and that on a
    # machine with GPUs end in "terminate called without an active exception". They are to start as everywhere else.
    multiprocessing.set_start_method(start_method, force=True)
    rank = first_rank + local_rank
    places = {"RANK": rank, "LOCAL_RANK": local_rank, **sizes}
    os.environ.update({name: str(value) for name, value in places.items()})  # as torchrun does
    try:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        run_process(dist_url, main, args)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if rank == 0:
            say("interrupted")
        raise SystemExit(INTERRUPTED) from None  # torch would take it for success
    except EXPECTED as error:
        # The end of this process ends its loader workers; torch would take that for a failure of theirs.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        raise SystemExit(report(error)) from None


def take_place(local_rank: int, local_size: int) -> None:
    """Use the GPU of this number, and on the CPU this process's part of the cores."""
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    if "OMP_NUM_THREADS" not in os.environ:  # processes that each want all cores wait for one another most of the time
        torch.set_num_threads(max(1, torch.get_num_threads() // local_size))


def run_process(init_method: str, main: Callable[..., Any], args: tuple) -> None:
    """Join the process group at the place that torchrun's variables say, call `main(*args)`, leave the group."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_size, has_gpu = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.is_available()
    take_place(int(os.environ["LOCAL_RANK"]), local_size)
    dist.init_process_group(
        "nccl" if has_gpu else "gloo", init_method=init_method, world_size=world_size, rank=rank, timeout=TIMEOUT
    )
    comm.create_local_process_group(local_size)
    comm.synchronize()
    main(*args)
    comm.synchronize()  # a process that leaves early closes connections that others may still be reading from
    dist.destroy_process_group()
