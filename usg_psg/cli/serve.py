"""Serves scene graphs over HTTP."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from importlib import import_module
from types import ModuleType

from ..data.uploads import Limits
from ..engine import adapt_to_machine
from ..engine.terminal import setup_logging
from ..predictor import SceneGraphPredictor
from . import config_of
from .app import check_port

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "starlette")


def server_module() -> ModuleType:
    """Import `usg_psg.server`; ValueError says how to install what it needs."""
    try:
        return import_module("usg_psg.server")
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        hint = "pip install 'usg_psg[serve]', or pip install -e '.[serve]' in this repository"
        raise ValueError(f"serve needs {error.name}: {hint}") from None


def run(args: Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C, and answer what was asked before."""
    http = server_module()
    setup_logging()
    check_port(args.host, args.port)
    cfg = config_of(args)
    adapt_to_machine(cfg)
    limits = Limits(args.max_megabytes, args.max_megapixels, seconds=args.max_seconds)
    settings = http.Settings(limits, args.max_batch, args.max_wait / 1000, args.queue, args.threads)
    service = http.Service(lambda: SceneGraphPredictor(cfg), settings)
    asyncio.run(http.Server(service, args.host, args.port, args.allow_host).serve())
    if service.failure is not None:
        raise service.failure
