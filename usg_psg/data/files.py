"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Call write(file) on a temporary file in path's folder, flush it to the disk and rename it to path."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, content: object, indent: int | None = 1) -> None:
    """Write ASCII JSON, so that any text, lone surrogates too, can be read again."""
    write_whole(path, lambda file: file.write(json.dumps(content, indent=indent).encode("ascii")))
