#!/usr/bin/env python
"""The command `usg-psg benchmark evaluate`."""

from usg_psg_cli import program

main = program("benchmark evaluate")

if __name__ == "__main__":
    raise SystemExit(main())
