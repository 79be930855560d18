"""Run a piece of code in a new process on either engine."""

from __future__ import annotations

import importlib.machinery
import subprocess
from pathlib import Path

import pytest

from ..programs import ROOT, run


def real_is_installed() -> bool:
    """Whether Detectron2 itself is there, whichever engine this process runs on."""
    finder = importlib.machinery.PathFinder()
    spec = finder.find_spec("detectron2")
    return spec is not None and spec.origin is not None


needs_real = pytest.mark.skipif(not real_is_installed(), reason="Detectron2 is not installed")


def run_python(*arguments: str, engine: str | None, check: bool = True, cwd: Path = ROOT) -> str:
    """Run a new Python with USG_PSG_ENGINE set.

    Returns:
        what it printed, on either stream.
    """
    settings = {"USG_PSG_ENGINE": engine or ""}  # empty as good as unset
    done = run(*arguments, env=settings, cwd=cwd, stderr=subprocess.STDOUT, fresh=True)
    if check and done.returncode != 0:
        raise AssertionError(f"{engine}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout
