"""A Python that has imported everything and forks itself for each program: `python tests/fork_server.py SOCKET`.

`programs.start` asks for them over the socket. A program then starts in 0.1 s instead of the 8 s that importing takes.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import socket
import sys
import threading

import usg_psg  # selects the engine

# isort: split
import detectron2.engine  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import open_clip  # noqa: F401
import timm  # noqa: F401
import torch._dynamo
import torch.utils.tensorboard  # noqa: F401

import usg_psg.engine
import usg_psg.evaluation.formats
import usg_psg.predictor
import usg_psg.pretrained
import usg_psg.visualization.page  # noqa: F401


def serve(channel: socket.socket) -> dict:
    """Fork for every request until the other end is closed; returns, in the forked processes, what to run."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 3)
        if not message:
            os._exit(0)
        # The process in between ends at once, so that its child gets the test process for a parent, see programs.py.
        reader, writer = os.pipe()
        if not (between := os.fork()):
            if pid := os.fork():
                os.write(writer, str(pid).encode())
                os._exit(0)
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
            for descriptor in (*descriptors, reader, writer):
                os.close(descriptor)
            channel.close()
            return json.loads(message)
        os.waitpid(between, 0)
        channel.send(os.read(reader, 100))
        for descriptor in (*descriptors, reader, writer):
            os.close(descriptor)


def run(arguments: list[str], cwd: str, environment: dict[str, str], new_session: bool) -> None:
    """Do what `python ARGUMENTS` does: a file, -m MODULE or -c CODE, as `__main__`."""
    if new_session:
        os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    first, *rest = arguments
    if first == "-m":
        sys.path[0], sys.argv = cwd, rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = type(sys)("__main__")
    if first == "-c":
        sys.path[0], sys.argv, code = "", ["-c", *rest[1:]], rest[0]
    else:
        sys.path[0], sys.argv, main.__file__ = os.path.dirname(os.path.abspath(first)), arguments, first
        with open(first) as file:
            code = file.read()
    exec(compile(code, first, "exec"), main.__dict__)


if __name__ == "__main__":
    gc.freeze()  # pages that nobody writes to stay shared
    status = 0
    try:
        run(**serve(socket.socket(fileno=int(sys.argv[1]))))
    except SystemExit as stopped:
        if not isinstance(stopped.code, int | None):
            raise
        status = stopped.code or 0
    # As the interpreter ends, but for taking thousands of modules to pieces, which takes longer than most programs.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
