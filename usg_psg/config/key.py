"""An entry of the table of configuration keys."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..utils.allowed import Allowed

KEPT: Any = object()  # the default of a key of Detectron2's that this project does not change


class Key(NamedTuple):
    """One configuration key.

    Attributes:
        default: its default, KEPT for Detectron2's.
        meaning: what it means, with its unit.
        source: where the default comes from, "SPEC n" for docs/specification.md; "" for this project's choice.
        allowed: its values, where the type alone does not say them.
    """

    default: Any
    meaning: str
    source: str = ""
    allowed: Allowed | None = None
