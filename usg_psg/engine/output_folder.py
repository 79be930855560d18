"""One run at a time in an OUTPUT_DIR, and no new one among the results of an earlier one."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..utils.files import remove_temporary_files
from ..utils.program import say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
# Written by the first step or checkpoint of a training; a new run would overwrite them or add to them.
RESULTS = ("last_checkpoint", "losses.jsonl", "metrics.json")
CHECKPOINTS = ("model_" + "[0-9]" * 7 + ".pth", "model_final.pth", "model_best.pth", "nonfinite.pth")
RECORDS = (*RESULTS, "model_best.json", "nonfinite.json", "logger_runs.json", "events.out.tfevents.*", "log.txt*")


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold an OUTPUT_DIR, made if missing, and remove the temporary files that killed writers have left in it.

    The lock is the process's own (POSIX record lock): its children do not inherit it, and the system releases it
    however the process ends. ValueError if another process holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(descriptor, folder)
        os.ftruncate(descriptor, 0)
        since = time.strftime("%Y-%m-%d %H:%M")
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode(), 0)
        remove_temporary_files(folder)
        if (folder / "inference").is_dir():
            remove_temporary_files(folder / "inference")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "its process is not known"
            raise ValueError(
                f"OUTPUT_DIR {folder}: another run is writing here ({holder}); "
                "wait for its end, or choose another OUTPUT_DIR"
            ) from None
        # Some network file systems have no locks.
        say(f"warning: {folder} cannot be locked ({error.strerror}): make sure that no other run writes there")


def start_new_training(folder: str | Path, weights: str = "", overwrite: bool = False) -> None:
    """Refuse an OUTPUT_DIR with the results of a training, or remove its checkpoints and logs.

    Raises:
        ValueError: if there are results and overwrite is False, or the new training's weights are among them.
    """
    folder = Path(folder)
    found = [name for name in RESULTS if (folder / name).is_file() and (folder / name).stat().st_size]
    if not found:
        return
    if not overwrite:
        raise ValueError(
            f"OUTPUT_DIR {folder} has the results of an earlier training ({', '.join(found)}): --resume goes on with "
            "it, --overwrite removes its checkpoints and logs, another OUTPUT_DIR keeps them"
        )
    old = [path for pattern in (*CHECKPOINTS, *RECORDS) for path in folder.glob(pattern)]
    if weights and any(path.samefile(weights) for path in old):
        raise ValueError(f"--overwrite would remove MODEL.WEIGHTS {weights}: choose another OUTPUT_DIR")
    for path in old:
        path.unlink()
