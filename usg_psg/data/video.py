"""Frames of video files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})


def is_video(path: Path) -> bool:
    """Whether the file's name ends as those of videos do."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def count_frames(path: Path | str, step: int = 1, limit: int | None = None) -> int | None:
    """How many frames `read_frames` gives as far as the file's header says, which may be wrong; None if unknown."""
    capture = cv2.VideoCapture(str(path))
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    if frames <= 0:
        return limit
    chosen = -(-frames // step)
    return chosen if limit is None else min(chosen, limit)


def read_frames(path: Path | str, step: int = 1, limit: int | None = None) -> Iterator[tuple[int, float, np.ndarray]]:
    """Every step-th frame of a video, from the first one on.

    Yields:
        number of the frame from 0; its time in seconds, NaN if the file does not say; (H, W, 3) uint8 RGB.

    Raises:
        FileNotFoundError, ValueError: for step or limit below 1, or if there is no such file, or no frame of it can be
            read. A file that breaks off later ends there.
    """
    if step < 1 or (limit is not None and limit < 1):
        raise ValueError(f"step and limit: expected 1 or more, got {step} and {limit}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    capture = cv2.VideoCapture(str(path))
    try:
        rate = capture.get(cv2.CAP_PROP_FPS)
        number = given = 0
        while (limit is None or given < limit) and capture.grab():
            if number % step == 0:
                found, frame = capture.retrieve()
                if not found:
                    break
                yield number, number / rate if rate > 0 else float("nan"), cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                given += 1
            number += 1
        if given == 0:
            raise ValueError(f"{path}: not a readable video, or one without frames")
    finally:
        capture.release()
