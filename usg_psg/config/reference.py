"""Print the list of configuration keys; `--write` puts it into docs/configuration.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from detectron2.config import get_cfg

from ..utils.allowed import ABOVE_ZERO, ONE_OR_MORE, ZERO_OR_MORE
from ..utils.generated_table import print_or_write
from .build import build_cfg
from .defaults import KEYS
from .files import leaves
from .key import KEPT, Key

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
MARKS = "keys"
OBVIOUS = (ABOVE_ZERO, ZERO_OR_MORE, ONE_OR_MORE)  # ranges that the list leaves out


def table() -> str:
    """All keys as Markdown lists, one for each part of the config."""
    original, ours = dict(leaves(get_cfg())), dict(leaves(build_cfg()))
    sections: dict[str, dict[str, list[str]]] = {}  # title to what is said of keys to the keys
    for key, entry in KEYS.items():
        changed = key in original and original[key] != ours[key]
        note = f"Detectron2: `{_show(original[key])}`" if changed else ""
        title = "Detectron2's defaults" if entry.default is KEPT else _section(key)
        sections.setdefault(title, {}).setdefault(_said(ours[key], entry, note), []).append(f"`{key}`")
    kept = sections.pop("Detectron2's defaults")
    sections["Detectron2's defaults"] = dict(sorted(kept.items(), key=lambda item: item[1]))
    return "\n\n".join(
        f"## {title}\n\n" + "\n".join(f"- {', '.join(keys)} {said}" for said, keys in section.items())
        for title, section in sections.items()
    )


def _section(key: str) -> str:
    parts = key.split(".")
    if parts[:2] == ["MODEL", "USG"]:
        return ".".join(parts[: 3 if len(parts) > 3 else 2])
    return ".".join(parts[:2]) if parts[:2] in (["MODEL", "CLIP"], ["MODEL", "TIMM"]) else parts[0]


def _said(value: Any, entry: Key, note: str) -> str:
    """`default`: meaning; allowed values (source; Detectron2's default)."""
    meaning = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", entry.meaning)
    if entry.allowed and entry.allowed not in OBVIOUS:
        choices = [f'"{choice}"' for choice in entry.allowed.choices]
        if not choices or not all(choice in f'"{value}" {meaning}' for choice in choices):
            meaning += "; " + (" ".join(choices) or _range(entry.allowed.words))
    origin = "; ".join(filter(None, (entry.source, note)))
    return f"`{_show(value)}`: {meaning}" + (f" ({origin})" if origin else "")


def _range(words: str) -> str:
    words = re.sub(r"^(\d+) or more$", r"≥\1", words.removeprefix("a number "))
    return words.replace("above 0", ">0").removeprefix("from ")


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        items = ", ".join(_show(item) for item in value)
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' * (len(value) == 1)})"
    return f'"{value}"' if isinstance(value, str) else str(value)


def main(argv: list[str] | None = None) -> None:
    """Print the tables, or write them between the marks in docs/configuration.md."""
    print_or_write(table, DOCUMENT, MARKS, str(__doc__), argv)


if __name__ == "__main__":
    main()
