#!/usr/bin/env python
"""The command `usg-psg benchmark train`."""

from usg_psg_cli import program

main = program("benchmark train")

if __name__ == "__main__":
    raise SystemExit(main())
