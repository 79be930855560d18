#!/usr/bin/env python
"""The command `usg-psg clip`."""

from usg_psg_cli import program

main = program("clip")

if __name__ == "__main__":
    raise SystemExit(main())
