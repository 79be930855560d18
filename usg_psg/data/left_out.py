"""Images that training left out, gathered from the loader's worker processes."""

from __future__ import annotations

import json
import os
import tempfile
import weakref

MAX_NAMES = 5


class LeftOutImages:
    """A list of images that several processes add to and one reads.

    It is a file, each entry one write at its end, so that entries survive the workers, which are ended without notice,
    and need no connection between the processes.

    Args:
        path: of a file that exists; None makes one, which goes when this object does.
    """

    def __init__(self, path: str | None = None):
        if path is None:
            handle, path = tempfile.mkstemp(prefix="usg_psg_left_out_")
            os.close(handle)
            weakref.finalize(self, _remove, path, os.getpid())
        self.path = path
        self._known: set[str] = set()

    def __reduce__(self) -> tuple:
        # A copy in another process writes to the same file.
        return LeftOutImages, (self.path,)

    def __deepcopy__(self, _memo: dict) -> LeftOutImages:
        return LeftOutImages(self.path)

    def add(self, image_id: str, message: str) -> bool:
        """Note an image; False if this process did so before."""
        is_new = image_id not in self._known
        self._known.add(image_id)
        if is_new:
            entry = json.dumps([image_id, message]) + "\n"
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(handle, entry.encode("ascii"))
            finally:
                os.close(handle)
        return is_new

    def read(self) -> dict[str, str]:
        """Why each image was left out, by image_id, in the order in which they were met first."""
        found: dict[str, str] = {}
        with open(self.path, encoding="ascii") as file:
            for line in file:
                image_id, message = json.loads(line)
                found.setdefault(image_id, message)
        return found

    def summary(self) -> str:
        """One line: how many images, and the first ones; "" if there are none."""
        found = self.read()
        if not found:
            return ""
        shown = ", ".join(map(repr, list(found)[:MAX_NAMES]))
        more = ", ..." if len(found) > MAX_NAMES else ""
        reason = next(iter(found.values()))
        return f"{len(found)} images were left out of training (image_id {shown}{more}); the first: {reason}"


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner and os.path.exists(path):
        os.remove(path)
