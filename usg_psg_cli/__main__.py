"""`python -m usg_psg_cli`, where the console command is not on the path."""

from . import main

if __name__ == "__main__":
    raise SystemExit(main())
