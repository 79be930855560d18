"""Imported first by every program of this folder: Ctrl-C during its imports, which take seconds, ends it in one line.

`usg_psg.utils.program.one_line_errors` gives Ctrl-C its usual meaning back.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def _end(_number: int, _frame: object) -> None:
    os.write(2, f"{Path(sys.argv[0]).name}: interrupted\n".encode())
    os._exit(130)


# Not where another program imports one of these, nor where Ctrl-C is ignored, as in a script's background.
_program = getattr(sys.modules["__main__"], "__file__", None)
if _program and Path(_program).resolve().parent == Path(__file__).resolve().parent:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
