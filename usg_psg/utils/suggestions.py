"""What a user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], limit: int = 2) -> str:
    """The known names nearest to a wrong one as the end of a message, "" if none is near.

    A dotted key is also found by its last parts alone.
    """
    known = list(dict.fromkeys(known))
    ends = [key for key in known if key.endswith("." + name)]
    close = (ends or difflib.get_close_matches(name, known, n=limit, cutoff=0.6))[:limit]
    return f"; did you mean {' or '.join(close)}?" if close else ""
