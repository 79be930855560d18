#!/usr/bin/env python
"""The command `usg-psg demo`."""

from usg_psg_cli import program

main = program("demo")

if __name__ == "__main__":
    raise SystemExit(main())
