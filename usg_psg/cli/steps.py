"""Commands that a chain runs one after the other, each shown as a user would type it."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

TOOLS = {
    "shapes": "make_synthetic_psg.py",
    "train": "train_net.py",
    "demo": "demo.py",
    "data check": "prepare_psg.py check",
    "data index": "prepare_psg.py index",
    "data download": "prepare_psg.py download",
    "convert": "convert_checkpoint.py",
}


def shown(command: str, words: list[str]) -> str:
    """A command line: of tools/ in a checkout, of the console command otherwise."""
    from_checkout = Path(sys.argv[0]).suffix == ".py" and command in TOOLS
    start = f"python tools/{TOOLS[command]}" if from_checkout else f"usg-psg {command}"
    return f"{start} {shlex.join(words)}"


def run_step(title: str, command: str, words: list[str], env: Mapping[str, str]) -> float:
    """Run a command, whose output goes to the screen; returns the seconds it took.

    Raises:
        ChildProcessError: if it fails.
    """
    print(f"\n=== {title}\n$ {shown(command, words)}", flush=True)
    start = time.monotonic()
    status = subprocess.run([sys.executable, "-m", "usg_psg_cli", *command.split(), *words], env=env).returncode
    if status:
        raise ChildProcessError(f"stopped: this step failed with exit code {status}")
    seconds = time.monotonic() - start
    print(f"--- {seconds:.0f} s", flush=True)
    return seconds
