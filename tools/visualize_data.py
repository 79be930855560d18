#!/usr/bin/env python
"""The command `usg-psg visualize`."""

from usg_psg_cli import program

main = program("visualize")

if __name__ == "__main__":
    raise SystemExit(main())
