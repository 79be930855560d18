#!/usr/bin/env python
"""The command `usg-psg benchmark ops`."""

from usg_psg_cli import program

main = program("benchmark ops")

if __name__ == "__main__":
    raise SystemExit(main())
