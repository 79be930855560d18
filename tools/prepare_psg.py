#!/usr/bin/env python
"""The commands `usg-psg check`, `stats`, `index`, `fix` and `coco`."""

from usg_psg_cli import program

main = program("check", "stats", "index", "fix", "coco")

if __name__ == "__main__":
    raise SystemExit(main())
