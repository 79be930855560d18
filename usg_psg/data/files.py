"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def write_whole(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Call write(file) on a temporary file in path's folder, flush it to the disk and rename it to path.

    Raises:
        OSError: names path, if the disk is full or cannot be written; what was at path is still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if (cause := _disk_error(error)) is not None:
            raise OSError(cause.errno, f"cannot be written: {cause.strerror}", str(path)) from error
        raise


def _disk_error(error: BaseException) -> OSError | None:
    """The error of the disk itself, or that behind a RuntimeError of torch, which met it while it wrote."""
    seen: BaseException | None = error if isinstance(error, OSError | RuntimeError) else None
    while seen is not None and not (isinstance(seen, OSError) and seen.errno):
        seen = seen.__cause__ or seen.__context__
    return seen


def write_json(path: str | Path, content: object, indent: int | None = 1) -> None:
    """Write ASCII JSON, so that any text, lone surrogates too, can be read again."""
    write_whole(path, lambda file: file.write(json.dumps(content, indent=indent).encode("ascii")))
