"""Tables that a command makes of the code, and that stand in a document between two marks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def split_at_marks(text: str, name: str) -> tuple[str, str, str]:
    """A document up to the start mark, the text between the marks, and the rest; ValueError if a mark is missing."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, start, rest = text.partition(start)
    between, end, after = rest.partition(end)
    if not end:
        raise ValueError(f"there are no marks '<!-- {name}: start -->' and '<!-- {name}: end -->'")
    return before + start, between.strip(), end + after


def print_or_write(
    make: Callable[[], str], document: Path, name: str, description: str, argv: list[str] | None = None
) -> None:
    """A program that prints the table of `make`, or with `--write` puts it between the marks `name` of a document."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--write", action="store_true", help=f"update {document.name} instead of printing")
    if not parser.parse_args(argv).write:
        sys.stdout.write(make() + "\n")
        return
    before, _, after = split_at_marks(document.read_text(encoding="utf-8"), name)
    document.write_text(f"{before}\n\n{make()}\n\n{after}", encoding="utf-8")
