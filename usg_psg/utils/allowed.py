"""The values that a setting may have, said once for constructors, the config's checks and its reference page."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Allowed:
    """The values that an argument or a configuration key may have.

    Args:
        words: the values, to follow "expected".
        fits: whether a value is one of them.
        choices: all of them, if they are few.
    """

    words: str
    fits: Callable[[Any], bool]
    choices: tuple[str, ...] = ()

    def error(self, name: str, value: object) -> str:
        """ "NAME: expected ..., got ..."; "" for an allowed value."""
        return "" if self.fits(value) else f"{name}: expected {self.words}, got {value!r}"

    def check(self, name: str, value: object) -> None:
        """Raise ValueError with `error` unless the value is allowed."""
        if error := self.error(name, value):
            raise ValueError(error)


def one_of(*choices: str) -> Allowed:
    """One of these texts."""
    return Allowed(", ".join(map(repr, choices)), choices.__contains__, choices)


def number(words: str, fits: Callable[[float], bool]) -> Allowed:
    """A finite number that fits."""
    return Allowed(words, lambda value: isinstance(value, int | float) and math.isfinite(value) and fits(value))


ONE_OR_MORE = number("1 or more", lambda x: x >= 1)
ZERO_OR_MORE = number("0 or more", lambda x: x >= 0)
ABOVE_ZERO = number("a number above 0", lambda x: x > 0)
ZERO_TO_ONE = number("a number from 0 to 1", lambda x: 0 <= x <= 1)
BELOW_ONE = number("a number from 0 to below 1", lambda x: 0 <= x < 1)
BETWEEN_ZERO_AND_ONE = number("a number between 0 and 1", lambda x: 0 < x < 1)
