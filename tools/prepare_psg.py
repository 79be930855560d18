#!/usr/bin/env python
"""The commands `usg-psg download`, `import`, `check`, `stats`, `index`, `fix`, `download` and `import`."""

from usg_psg_cli import program

main = program("download", "import", "check", "stats", "index", "fix", "download", "import")

if __name__ == "__main__":
    raise SystemExit(main())
