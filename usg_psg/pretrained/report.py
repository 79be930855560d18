"""The account of a conversion as text."""

from __future__ import annotations

import re
from collections import defaultdict

from tabulate import tabulate

from .convert import Conversion


def format_conversion(conversion: Conversion, verbose: bool = False) -> str:
    """Tables of the weights that were used, left out and newly initialised.

    Args:
        conversion: of `convert`.
        verbose: a line for every parameter; otherwise numbered names count as one.
    """
    parts = (
        ("used", ("published name", "here"), conversion.used),
        ("left out", ("published name", "reason"), conversion.left_out),
        ("newly initialised", ("here", "how"), conversion.new),
    )
    lines = []
    for title, headers, rows in parts:
        table = tabulate(rows, headers) if verbose else tabulate(_grouped(rows), ("count", *headers))
        lines += [f"{title}: {len(rows)} parameters", table, ""]
    record = conversion.record
    lines.append(f"decoder layers {_ranges(record['layers'])}, queries {_ranges(record['queries'])}")
    order = record["MODEL.USG.MASK_DECODER.LAYER_ORDER"]
    if order != "cross_first":
        lines.append(
            f"note: the published decoder attends to pixels first; with MODEL.USG.MASK_DECODER.LAYER_ORDER {order} "
            "the same weights compute something else and are a start only"
        )
    return "\n".join(lines)


def _grouped(rows: list[tuple[str, str]]) -> list[tuple[int, str, str]]:
    """Rows whose names differ in numbers and last parts as one, under a common name; a row of its own as it is."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        groups[_group(row[0]), _group(row[1])].append(row)
    return [(len(members), *(members[0] if len(members) == 1 else common)) for common, members in groups.items()]


def _group(name: str) -> str:
    """A name without its last parts and with numbers replaced, so that one line stands for a block."""
    name = re.sub(r"\b\d+\b", "N", name)
    for block in (r"(backbone\.clip_model\.(?:visual\.)?\w+)\..*", r"(backbone\.\w+)\..*", r"(relation_head\.\w+)\..*"):
        name = re.sub(block, r"\1.*", name)
    return re.sub(r"\.(?:weight|bias|in_proj_weight|in_proj_bias)$", ".*", name)


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 6, 7] as "0-2,6-7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
