#!/usr/bin/env python
"""The command `usg-psg plot`."""

from usg_psg_cli import program

main = program("plot")

if __name__ == "__main__":
    raise SystemExit(main())
