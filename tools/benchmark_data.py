#!/usr/bin/env python
"""The command `usg-psg benchmark data`."""

from usg_psg_cli import program

main = program("benchmark data")

if __name__ == "__main__":
    raise SystemExit(main())
