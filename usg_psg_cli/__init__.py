"""The command line: `usg-psg COMMAND ...`, and the programs of tools/, each a command of its own.

Arguments are read before anything is imported that takes seconds, hence this package apart from `usg_psg`, whose import
registers data sets and models: help and wrong arguments cost 0.1 s instead of 8 s. `usg_psg.cli` does the work.
"""

from .program import main, parse, program

__all__ = ["main", "parse", "program"]
