"""Selects the engine before any test imports Detectron2; shared small models and data."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import usg_psg  # noqa: F401  selects the engine

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))  # where its programs find one another
# Processes of the suite that each want all cores wait for one another most of the time.
torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))))
# A shell has its background jobs ignore Ctrl-C, and programs started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as nohup has them ignore the end of a terminal
# Other work may have the cores: an example over a fifth of a second would else fail.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


# A browser, compiled operators, built packages, the folder in which the commands of the documents run, engines anew.
SLOW_FIXTURES = {"new_page", "compiled_library", "sdist", "workplace", "behaviours"}
LONGEST = ("test_overfit.py", "test_full_size.py", "test_export.py", "test_cuda_graphs.py", "test_docs.py")


def pytest_collection_modifyitems(items):
    """Mark what uses these fixtures as slow; begin with the longest files, so that the processes end together."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if SLOW_FIXTURES.intersection(item.fixturenames):
            item.add_marker("slow")
        if item.get_closest_marker("nightly") and not os.environ.get("USG_PSG_NIGHTLY"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: set USG_PSG_NIGHTLY=1"))


@pytest.fixture(scope="session", autouse=True)
def text_cache(tmp_path_factory):
    """Text embeddings are computed once a run, never taken from the user's own cache."""
    folder = tmp_path_factory.mktemp("text_cache")
    os.environ["USG_PSG_CACHE"] = str(folder)
    return folder


def photographs(name: str) -> Path:
    root = Path(__file__).resolve().parents[2] / "shared" / "data" / name
    if not root.is_dir():
        pytest.skip("the sample of real photographs is not here")
    return root


@pytest.fixture(scope="session")
def psg_mini() -> Path:
    """Root of five real photographs in PSG format, which are not part of the project."""
    return photographs("psg_mini")


@pytest.fixture(scope="session")
def psg_photos() -> Path:
    """Root of 150 real photographs in PSG format, which are not part of the project."""
    return photographs("psg_photos")


@pytest.fixture(autouse=True)
def fresh_start():
    """Neither random numbers nor the logs that a program set up in this process reach the next test."""
    torch.manual_seed(0)
    for name in ("usg_psg", "mask2former_ops", "fvcore", "detectron2"):
        target = logging.getLogger(name)
        target.handlers, target.propagate = [], True
        target.setLevel(logging.NOTSET)
