#!/usr/bin/env python
"""The command `usg-psg benchmark serve`."""

from usg_psg_cli import program

main = program("benchmark serve")

if __name__ == "__main__":
    raise SystemExit(main())
