"""What the operating system says of processes."""

from __future__ import annotations

from pathlib import Path


def children_of(pid: int) -> set[int]:
    """Processes whose parent this one is, but for those that have ended."""
    return {child for child, (state, parent) in _stats() if parent == pid and state != "Z"}


def alive(pids: set[int]) -> set[int]:
    """Those that have not ended."""
    return {pid for pid, (state, _) in _stats() if pid in pids and state != "Z"}


def _stats() -> list[tuple[int, tuple[str, int]]]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        found.append((int(entry.parent.name), (state, int(parent))))
    return found
