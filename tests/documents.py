"""README.md and docs/ in parts: links, blocks of code, commands."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "usg_psg" / "compat" / "README.md",
]

_FENCE = re.compile(r"(?P<before>[^\n]*)\n+```(?P<language>\w*)\n(?P<text>.*?)\n```$", flags=re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=\S*")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document.

    Attributes:
        document: where it stands.
        language: behind the opening fence, "" for none.
        text: between the fences.
        before: the line of text above it.
    """

    document: Path
    language: str
    text: str
    before: str

    @property
    def file(self) -> str:
        """Name of the file that a reader is told to make of it, "" for none."""
        named = re.match(r"`([\w.]+)`[^`]*:$", self.before)
        return named.group(1) if named else ""

    @property
    def runs(self) -> bool:
        """Whether the tests run it: the comment <!-- run --> stands above it."""
        return self.before == "<!-- run -->"

    def commands(self) -> list[str]:
        """Shell commands, continued lines joined, without comments."""
        lines = re.sub(r"\\\n\s*", " ", self.text).splitlines()
        words = (shlex.split(line, comments=True) for line in lines)
        return [shlex.join(each) for each in words if each]


def blocks(document: Path) -> list[Block]:
    """All fenced blocks, in order."""
    found = _FENCE.finditer("\n" + document.read_text(encoding="utf-8"))
    return [Block(document, m["language"], m["text"], m["before"]) for m in found]


def links(document: Path) -> list[str]:
    """Targets of all links and pictures outside of blocks."""
    text = document.read_text(encoding="utf-8")
    return _LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def anchors(document: Path) -> set[str]:
    """Names of a document's headings, as links write them."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def split_environment(command: str) -> tuple[dict[str, str], list[str]]:
    """`A=1 python x.py` as variables and words."""
    words = shlex.split(command)
    count = next((n for n, word in enumerate(words) if not _ASSIGNMENT.fullmatch(word)), len(words))
    return dict(word.split("=", 1) for word in words[:count]), words[count:]
