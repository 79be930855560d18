#!/usr/bin/env python
"""The command `usg-psg app`."""

from usg_psg_cli import program

main = program("app")

if __name__ == "__main__":
    raise SystemExit(main())
