#!/usr/bin/env python
"""The commands `usg-psg benchmark ...`."""

from usg_psg_cli import program

main = program("benchmark")

if __name__ == "__main__":
    raise SystemExit(main())
