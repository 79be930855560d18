"""Packages that a user may do without."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def optional(package: str, needed_by: str, extra: str = "") -> ModuleType:
    """Import a package; the ValueError says who needs it, and which extra (by default of its name) installs it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ValueError(f"{needed_by} needs {package}: pip install 'usg_psg[{extra or package}]'") from error
