#!/usr/bin/env python
"""The command `usg-psg benchmark memory`."""

from usg_psg_cli import program

main = program("benchmark memory")

if __name__ == "__main__":
    raise SystemExit(main())
