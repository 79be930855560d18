"""Names and numbers as readers see them, made in one place so that every picture, table and file agrees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath


def spoken_name(name: str) -> str:
    """What a category name means to a reader: COCO's "wall-other-merged" is "wall", "floor-wood" is "floor wood"."""
    for suffix in ("-merged", "-other"):
        name = name.replace(suffix, "")
    return name.replace("-", " ").replace("_", " ").strip()


def printable(text: str) -> str:
    """The text as UTF-8 can hold it: file names may have bytes that it cannot, and those become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 relation", "2 relations"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def short_paths(paths: Sequence[PurePath]) -> list[str]:
    """Names to show for files: the file's own, after as few of its folders as tell it apart from the others."""
    shown, pending, length = [""] * len(paths), list(range(len(paths))), 1
    while pending:
        ends = {i: paths[i].parts[-length:] for i in pending}
        shown = ["/".join(ends[i]) if i in ends else shown[i] for i in range(len(paths))]
        total = Counter(ends.values())
        pending = [i for i in pending if total[ends[i]] > 1 and len(ends[i]) == length]
        length += 1
    return [printable(name) for name in shown]


def display_names(names: Sequence[str]) -> list[str]:
    """Names to show for all objects of an image, all different: its category names, numbered where one repeats."""
    spoken = [spoken_name(name) for name in names]
    total, shown = Counter(spoken), []
    seen: Counter[str] = Counter()
    for name in spoken:
        label = name
        if total[name] > 1:
            seen[name] += 1
            while total[f"{name} {seen[name]}"] == 1:  # a category may be called "person 2"
                seen[name] += 1
            label = f"{name} {seen[name]}"
        shown.append(label)
    return shown
