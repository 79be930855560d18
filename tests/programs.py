"""Programs of tools/ as modules, to run them without a new process."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def load_tool(name: str) -> ModuleType:
    """tools/<name>.py."""
    spec = importlib.util.spec_from_file_location(f"{name}_tool", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def python_path() -> str:
    """PYTHONPATH of a process that is to import this repository, before what the caller has there."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def start_tool(
    name: str, *arguments: str, env: dict[str, str] | None = None, stderr: int = subprocess.PIPE
) -> subprocess.Popen:
    """tools/<name>.py in a process of its own."""
    return subprocess.Popen(
        [sys.executable, f"tools/{name}.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": python_path(), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def exit_status(main: Callable[..., int | None], *arguments) -> int:
    """What a program's `main` ends with, be it by a value or by argparse's SystemExit."""
    try:
        return main(*arguments) or 0
    except SystemExit as stopped:
        return stopped.code
