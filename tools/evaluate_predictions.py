#!/usr/bin/env python
"""The command `usg-psg evaluate`."""

from usg_psg_cli import program

main = program("evaluate")

if __name__ == "__main__":
    raise SystemExit(main())
