"""Programs as a user starts them, in processes that are forked from one with all imports made."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
PR_SET_CHILD_SUBREAPER = 36  # of Linux


def load_tool(name: str) -> ModuleType:
    """tools/<name>.py."""
    spec = importlib.util.spec_from_file_location(f"{name}_tool", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def python_path() -> str:
    """PYTHONPATH of a process that is to import this repository, before what the caller has there."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@functools.cache
def _fork_server() -> socket.socket:
    """Where to ask for processes; the server ends with this process, whose end of the socket is then closed."""
    # A process whose parent has ended becomes a child of this one, which can then wait for it.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(theirs.fileno())]
    env = {**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
    subprocess.Popen(command, env=env, pass_fds=[theirs.fileno()], start_new_session=True)
    theirs.close()
    return ours


class _Forked(subprocess.Popen):
    """A child process like any other, but for how it starts."""

    def _execute_child(
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *others,
    ):  # fmt: skip
        request = {"arguments": args[1:], "cwd": str(cwd), "environment": env, "new_session": others[5]}
        streams = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        socket.send_fds(_fork_server(), [json.dumps(request).encode()], streams)
        self.pid = int(_fork_server().recv(100))
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def start(*arguments: object, env: dict[str, str] | None = None, fresh: bool = False, **options) -> subprocess.Popen:
    """`python ARGUMENTS` in a process of its own, one thread, without a GPU.

    Args:
        arguments: a program, -m and a module, or -c and code; then its arguments.
        env: variables to add to this process's.
        fresh: start a new interpreter, for a test of imports, or of what a variable does to them.
        options: of `subprocess.Popen`; both outputs are pipes of text if nothing else is said.
    """
    popen = subprocess.Popen if fresh or not sys.platform.startswith("linux") else _Forked
    settings = {"PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **settings, **(env or {})},
        **{"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options,
    )


def run(*arguments: object, timeout: float = 300, **options) -> subprocess.CompletedProcess:
    """`start`, and wait for the end; a program that takes longer than `timeout` seconds is killed."""
    with start(*arguments, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run_job(world_size: int, *arguments: object, env: dict[str, str] | None = None, fresh: bool = False) -> None:
    """`start` processes with the variables that torchrun gives them and those of `env`, and wait for their end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    size = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    ranks = [{"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(world_size)]
    processes = [start(*arguments, env=meeting | size | rank | (env or {}), fresh=fresh) for rank in ranks]
    try:
        for process in processes:
            errors = process.communicate(timeout=300)[1]
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()


def exit_status(main: Callable[..., int | None], *arguments) -> int:
    """What a program's `main` ends with, be it by a value or by argparse's SystemExit."""
    try:
        return main(*arguments) or 0
    except SystemExit as stopped:
        return stopped.code
