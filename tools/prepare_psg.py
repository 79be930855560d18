#!/usr/bin/env python
"""The commands `usg-psg data download`, `import`, `check`, `stats`, `fix` and `index`."""

from usg_psg_cli import program

main = program("data")

if __name__ == "__main__":
    raise SystemExit(main())
