#!/usr/bin/env python
"""The command `usg-psg analyze`."""

from usg_psg_cli import program

main = program("analyze")

if __name__ == "__main__":
    raise SystemExit(main())
