#!/usr/bin/env python
"""The command `usg-psg reproduce`."""

from usg_psg_cli import program

main = program("reproduce")

if __name__ == "__main__":
    raise SystemExit(main())
