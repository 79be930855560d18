#!/usr/bin/env python
"""The command `usg-psg shapes`."""

from usg_psg_cli import program

main = program("shapes")

if __name__ == "__main__":
    raise SystemExit(main())
