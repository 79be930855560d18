#!/usr/bin/env python
"""The command `usg-psg serve`."""

from usg_psg_cli import program

main = program("serve")

if __name__ == "__main__":
    raise SystemExit(main())
