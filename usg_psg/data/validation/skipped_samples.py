"""Images that training skipped or mended."""

from __future__ import annotations

from .records import MENDED, first_names


class SkippedSamples:
    """Why each image was skipped ("") or mended (a kind of `MENDED`), in the order in which they were met first.

    Each of the loader's processes has one; what is new in it travels to the loader with the samples.
    """

    def __init__(self) -> None:
        self._why: dict[tuple[str, str], str] = {}
        self._new: list[tuple[str, str, str]] = []

    def add(self, image_id: str, message: str, mended: str = "") -> bool:
        """Record an image; False if it was known."""
        is_new = (mended, image_id) not in self._why
        if is_new:
            self._why[mended, image_id] = message
            self._new.append((image_id, message, mended))
        return is_new

    def take_new(self) -> list[tuple[str, str, str]]:
        """Arguments of `add` since the last call."""
        new, self._new = self._new, []
        return new

    def read(self, mended: str = "") -> dict[str, str]:
        """Why each image was skipped or mended, by image_id."""
        return {image_id: message for (kind, image_id), message in self._why.items() if kind == mended}

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
