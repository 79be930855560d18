#!/usr/bin/env python
"""The command `usg-psg convert`."""

from usg_psg_cli import program

main = program("convert")

if __name__ == "__main__":
    raise SystemExit(main())
