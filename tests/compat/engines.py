"""Run a piece of code in a new process on either engine."""

from __future__ import annotations

import importlib.machinery
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..programs import python_path

ROOT = Path(__file__).resolve().parents[2]


def real_is_installed() -> bool:
    """Whether Detectron2 itself is there, whichever engine this process runs on."""
    finder = importlib.machinery.PathFinder()
    spec = finder.find_spec("detectron2")
    return spec is not None and spec.origin is not None


needs_real = pytest.mark.skipif(not real_is_installed(), reason="Detectron2 is not installed")


def run_python(*arguments: str, engine: str | None, check: bool = True, cwd: Path = ROOT) -> str:
    """Run Python with USG_PSG_ENGINE set, one thread, no GPU, and the repository on the path.

    Returns:
        what it printed, on either stream.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": python_path()}
    environment.pop("USG_PSG_ENGINE", None)
    if engine is not None:
        environment["USG_PSG_ENGINE"] = engine
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{engine}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout
