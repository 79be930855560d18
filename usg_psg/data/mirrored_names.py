"""Names that a mirrored image turns into others: "left of" becomes "right of"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..vocabulary import Vocabulary

_OTHER = {"left": "right", "right": "left"}
# As words of their own ("to the left of", "left_of", "leftOf"), or at the beginning of one that says where.
_SIDE = re.compile(r"(?<![a-z])(left|right)(?=of|side|hand|most|ward|[^a-z]|$)")


class SidedNames:
    """Exchanges the classes and predicates of a mirrored image for their counterparts."""

    def __init__(self, vocabulary: Vocabulary):
        self._classes = [
            *mirrored_indices(vocabulary.thing_classes, "class"),
            *(len(vocabulary.thing_classes) + i for i in mirrored_indices(vocabulary.stuff_classes, "class")),
        ]
        self._predicates = mirrored_indices(vocabulary.predicate_classes, "predicate")

    def exchange(self, dataset_dict: dict) -> None:
        """Replace category_id and predicates in a dict of `load_psg_json`."""
        for segment in dataset_dict["segments_info"]:
            segment["category_id"] = self._classes[segment["category_id"]]
        dataset_dict["relations"] = [[s, o, self._predicates[p]] for s, o, p in dataset_dict["relations"]]


def mirrored_indices(names: Sequence[str], what: str) -> list[int]:
    """Position of the name that each becomes when the image is mirrored; its own where it names no side.

    Raises:
        ValueError: if a name names a side and its counterpart is not among the names; `what` is the kind of name.
    """
    position = {_plain(name): i for i, name in enumerate(names)}
    found = []
    for i, name in enumerate(names):
        plain = _plain(name)
        mirrored = _SIDE.sub(lambda match: _OTHER[match[1]], plain)
        if mirrored not in position:
            raise ValueError(
                f"INPUT.RANDOM_FLIP: 'horizontal' would turn the {what} {name!r} into {mirrored!r}, which the "
                "vocabulary lacks: add it, or set INPUT.RANDOM_FLIP to 'none'"
            )
        found.append(i if mirrored == plain else position[mirrored])
    return found


def _plain(name: str) -> str:
    """Small letters, with single spaces between words."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.split(r"[\s_-]+", words.strip())).casefold()
