#!/usr/bin/env python
"""The command `usg-psg benchmark inference`."""

from usg_psg_cli import program

main = program("benchmark inference")

if __name__ == "__main__":
    raise SystemExit(main())
