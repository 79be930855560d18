#!/usr/bin/env python
"""The command `usg-psg quickstart`."""

from usg_psg_cli import program

main = program("quickstart")

if __name__ == "__main__":
    raise SystemExit(main())
