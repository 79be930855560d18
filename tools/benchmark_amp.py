#!/usr/bin/env python
"""The command `usg-psg benchmark amp`."""

from usg_psg_cli import program

main = program("benchmark amp")

if __name__ == "__main__":
    raise SystemExit(main())
