"""Chooses what `import detectron2` means: the installed package, or the bundled subset where there is none.

Everything else imports `detectron2` as any extension of it would; deleting this folder, and its import in
`usg_psg/__init__.py`, leaves a plain Detectron2 extension. The environment variable `USG_PSG_ENGINE` is `auto`
(default: the installed package if there is one), `detectron2` (an error if it is missing) or `bundled`.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["ENGINE_VARIABLE", "INSTALL_COMMAND", "engine_name", "log_engine", "select_engine"]

logger = logging.getLogger(__name__)

ENGINE_VARIABLE = "USG_PSG_ENGINE"
INSTALL_COMMAND = "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"

_CHOICES = ("auto", "detectron2", "bundled")
_PACKAGE = "detectron2"
_BUNDLED_DIR = Path(__file__).resolve().parent / _PACKAGE

_selected = ""
_logged = False


class BundledFinder(importlib.abc.MetaPathFinder):
    """Finds the bundled subset under the top-level name `detectron2`; Python finds its submodules by its `__path__`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        if fullname != _PACKAGE:
            return None
        return importlib.util.spec_from_file_location(
            fullname, _BUNDLED_DIR / "__init__.py", submodule_search_locations=[str(_BUNDLED_DIR)]
        )


def select_engine(choice: str | None = None) -> str:
    """Decide which package `import detectron2` gives, make it so, and return "detectron2" or "bundled".

    A `detectron2` that was imported before is kept, with a warning if another one was asked for.

    Args:
        choice: "auto", "detectron2" or "bundled"; None reads `USG_PSG_ENGINE`.

    Raises:
        ValueError: if the choice is none of the three.
        ImportError: if "detectron2" was asked for and is not installed.
    """
    global _selected
    choice = choice or os.environ.get(ENGINE_VARIABLE) or "auto"
    if choice not in _CHOICES:
        raise ValueError(f"{ENGINE_VARIABLE} must be one of {', '.join(_CHOICES)}, got {choice!r}")
    if module := sys.modules.get(_PACKAGE):
        origin = module.__spec__ and module.__spec__.origin
        _selected = "bundled" if origin and Path(origin).resolve().parent == _BUNDLED_DIR else "detectron2"
        if choice not in ("auto", _selected):
            text = "%s=%s has no effect: detectron2 was imported before (%s)"
            logger.warning(text, ENGINE_VARIABLE, choice, _selected)
    else:
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, BundledFinder)]
        found = importlib.util.find_spec(_PACKAGE)
        # Without an origin it is a bare folder of that name, which Python would take for a namespace package.
        installed = found is not None and found.origin is not None
        if choice == "detectron2" and not installed:
            raise ImportError(
                f"{ENGINE_VARIABLE}=detectron2, but Detectron2 is not installed. Install it with\n  {INSTALL_COMMAND}"
            )
        _selected = "detectron2" if installed and choice != "bundled" else "bundled"
        if _selected == "bundled":
            sys.meta_path.insert(0, BundledFinder())
    if logger.hasHandlers():
        log_engine()
    return _selected


def engine_name() -> str:
    """The engine that runs: "detectron2" or "bundled"."""
    return _selected


def log_engine() -> None:
    """Say once per process, at INFO, which engine runs; programs call it when their logging is set up."""
    global _logged
    if _logged:
        return
    _logged = True
    if _selected == "detectron2":
        module = sys.modules.get(_PACKAGE)
        spec = module.__spec__ if module is not None else importlib.util.find_spec(_PACKAGE)
        logger.info("engine: installed Detectron2 (%s)", spec.origin if spec is not None else "imported before")
    else:
        logger.info("engine: bundled subset of Detectron2's API; for Detectron2 itself: %s", INSTALL_COMMAND)


def new_instance(module: str, name: str) -> Any:
    """An object of a class of the bundled subset, not initialised; used by pickle in freshly started processes.

    Unpickling this function imports `usg_psg`, hence this module, before `detectron2` is looked for.
    """
    cls = getattr(importlib.import_module(module), name)
    return cls.__new__(cls)


select_engine()
