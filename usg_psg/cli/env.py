"""Prints what a report of an error needs to say about the machine."""

from __future__ import annotations

from argparse import Namespace

import torch

from mask2former_ops import backend_report

from .. import __version__
from ..compat import engine_name
from ..engine.terminal import machine


def run(_args: Namespace) -> int:
    """Print versions, devices, the engine, and the operators that run on each device."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    print(f"usg_psg {__version__}; engine: {engine_name()}", *machine(), *map(backend_report, devices), sep="\n")
    return 0
