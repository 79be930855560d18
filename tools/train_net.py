#!/usr/bin/env python
"""The command `usg-psg train`."""

from usg_psg_cli import program

main = program("train")

if __name__ == "__main__":
    raise SystemExit(main())
