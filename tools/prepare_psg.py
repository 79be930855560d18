#!/usr/bin/env python
"""The commands `usg-psg download`, `import`, `check`, `stats`, `index` and `fix`."""

from usg_psg_cli import program

main = program("download", "import", "check", "stats", "index", "fix")

if __name__ == "__main__":
    raise SystemExit(main())
