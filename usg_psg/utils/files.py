"""Files that are whole or not there, and archives that are as they were written."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO


def cache_folder() -> Path:
    """$USG_PSG_CACHE, else ~/.cache/usg_psg."""
    return Path(os.environ.get("USG_PSG_CACHE") or Path.home() / ".cache" / "usg_psg")


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


def remove_temporary_files(folder: str | Path, unused_seconds: float = 0.0) -> None:
    """Remove what a `write_whole` that was killed has left in a folder.

    Args:
        folder: not searched below.
        unused_seconds: leave younger files, where other processes may be writing.
    """
    for path in Path(folder).glob(".*.tmp"):
        with suppress(OSError):  # its writer has renamed it, or it is another user's
            if re.fullmatch(r"\..+\.\d+\.\d+\.tmp", path.name) and time.time() - path.stat().st_mtime >= unused_seconds:
                path.unlink()


def _disk_error(error: BaseException) -> OSError | None:
    """The error of the disk itself, or that behind a RuntimeError of torch, which met it while it wrote."""
    seen: BaseException | None = error if isinstance(error, OSError | RuntimeError) else None
    while seen is not None and not (isinstance(seen, OSError) and seen.errno):
        seen = seen.__cause__ or seen.__context__
    return seen


def write_json(path: str | Path, content: object, indent: int | None = 1) -> None:
    """Write ASCII JSON, so that any text, lone surrogates too, can be read again."""
    write_whole(path, lambda file: file.write(json.dumps(content, indent=indent).encode("ascii")))


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; ValueError names the file if it is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a complete JSON file ({error})") from error


def check_archive(path: str | Path) -> None:
    """Compare the checksums of a zip archive, which torch.load does not; other files pass.

    Once in a process for each file, as long as it does not change.

    Raises:
        ValueError: if the archive is cut off or damaged.
        OSError: if the file cannot be read.
    """
    state = os.stat(path)
    _check_archive(str(path), state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=16)
def _check_archive(path: str, *_identity: int) -> None:
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # damaged bytes lead zipfile into errors of many kinds
        raise ValueError("it is cut off or damaged") from error
    if damaged is not None:
        raise ValueError(f"it is damaged: the checksum of its part {damaged} is wrong")


class JSONLines:
    """A file of JSON objects, one a line, to which lines are added.

    Args:
        path: created if it is missing.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = open(path, "ab", buffering=0)

    def read(self) -> Iterator[dict]:
        """Read the objects that are there; what a killed writer has left of a last line is removed.

        Raises:
            ValueError: names file and line, if one is no JSON object.
        """
        whole = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    os.truncate(self.path, whole)
                    return
                whole += len(line)
                try:
                    value = json.loads(line)
                except ValueError:
                    value = None
                if not isinstance(value, dict):
                    raise ValueError(f"{self.path}, line {number}: expected a JSON object")
                yield value

    def append(self, line: str) -> None:
        """Add an object's JSON; OSError names the file."""
        rest = line.encode() + b"\n"
        try:
            while rest:  # all of it at once, unless the disk is full
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise OSError(error.errno, f"cannot be written: {error.strerror}", str(self.path)) from error
