"""docs/robustness.md quotes messages that the programs give."""

from __future__ import annotations

from ..cli.bad_runs import CONFIGURATION, SURROUNDINGS
from ..documents import ROOT, blocks
from .validation.bad_cases import FILES, IMAGES, MENDED, RECORDS

PLACES = {"{json}": "JSON", "{image}": "IMAGE", "{png}": "PNG", "{folder}": "FOLDER", "{{": "{", "}}": "}"}


def test_quoted_messages_are_those_of_the_cases():
    messages = {message for _, message in FILES.values()}
    messages |= {
        case.message for cases in (RECORDS, IMAGES, MENDED, CONFIGURATION, SURROUNDINGS) for case in cases.values()
    }
    for place, name in PLACES.items():
        messages = {message.replace(place, name) for message in messages}
    quoted = [
        line
        for block in blocks(ROOT / "docs" / "robustness.md")
        if block.language == "text"
        for line in block.text.splitlines()
    ]
    assert len(quoted) >= 8
    assert not set(quoted) - messages
