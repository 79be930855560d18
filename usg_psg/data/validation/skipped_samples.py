"""Images that training skipped or mended, gathered from the loader's worker processes."""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Iterator

from .records import MENDED, first_names


class SkippedSamples:
    """A list of images that several processes add to and one reads.

    It is a file, each entry one write at its end, so that entries survive the workers, which are ended without notice,
    and need no connection between the processes.

    Args:
        path: of a file that exists; None makes one, which goes when this object does.
    """

    def __init__(self, path: str | None = None):
        if path is None:
            handle, path = tempfile.mkstemp(prefix="usg_psg_skipped_samples_")
            os.close(handle)
            weakref.finalize(self, _remove, path, os.getpid())
        self.path = path
        self._known: set[tuple[str, str]] = set()

    def __reduce__(self) -> tuple:
        # A copy in another process writes to the same file.
        return SkippedSamples, (self.path,)

    def __deepcopy__(self, _memo: dict) -> SkippedSamples:
        return SkippedSamples(self.path)

    def add(self, image_id: str, message: str, mended: str = "") -> bool:
        """Record an image that was skipped or, for a kind of `MENDED`, mended; False if this process did so before."""
        is_new = (mended, image_id) not in self._known
        self._known.add((mended, image_id))
        if is_new:
            entry = json.dumps([mended, image_id, message]) + "\n"
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(handle, entry.encode("ascii"))
            finally:
                os.close(handle)
        return is_new

    def _entries(self) -> Iterator[tuple[str, str, str]]:
        with open(self.path, encoding="ascii") as file:
            for line in file:
                yield json.loads(line)

    def read(self, mended: str = "") -> dict[str, str]:
        """Why each image was skipped or mended, by image_id, in the order in which they were met first."""
        found: dict[str, str] = {}
        for kind, image_id, message in self._entries():
            if kind == mended:
                found.setdefault(image_id, message)
        return found

    def summary(self) -> str:
        """One line: how many images, and the first ones; "" if there are none."""
        parts = [
            f"{len(ids)} {words} (image_id {first_names(ids)})"
            for kind, words in MENDED.items()
            if (ids := self.read(kind))
        ]
        if found := self.read():
            text = f"{len(found)} images were skipped in training (image_id {first_names(found)})"
            parts.append(f"{text}; the first: {next(iter(found.values()))}")
        return "; ".join(parts)


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner and os.path.exists(path):
        os.remove(path)
