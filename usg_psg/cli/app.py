"""Serves the web page of the app."""

from __future__ import annotations

import itertools
import os
import socket
import tempfile
import threading
from argparse import Namespace
from pathlib import Path

from ..data.uploads import Limits
from ..engine.terminal import setup_logging
from ..predictor import SceneGraphPredictor
from ..utils.text import short_paths
from . import config_of


def load_predictors(args: Namespace) -> dict[str, SceneGraphPredictor]:
    """A model for each checkpoint, by the name that the page shows.

    Raises:
        ValueError, FileNotFoundError: if the numbers do not fit, or a file is missing or wrong.
    """
    configs = args.config_file or [None]
    if len(configs) not in (1, len(args.weights)):
        wanted = f"one, or one for each of the {len(args.weights)} checkpoints"
        raise ValueError(f"--config-file: expected {wanted}, got {len(configs)}")
    predictors = {}
    shown = short_paths([Path(weights) for weights in args.weights])
    for config, weights, name in zip(itertools.cycle(configs), args.weights, shown, strict=False):
        if config and not os.path.isfile(weights):
            raise FileNotFoundError(f"--weights: there is no file {weights}")
        if name in predictors:
            raise ValueError(f"--weights: {weights} is given twice")
        each = Namespace(config_file=config, weights=weights, opts=args.opts, trust_imports=args.trust_imports)
        predictors[name] = SceneGraphPredictor(config_of(each))
    return predictors


def check_port(host: str, port: int) -> None:
    """Raise ValueError if nothing can listen there, before models are loaded."""
    if not 0 <= port <= 65535:
        raise ValueError(f"cannot listen on port {port}: expected 0 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ValueError(f"cannot listen on {host} port {port} ({error}); choose another one with --port") from error


def run(args: Namespace) -> None:
    """Serve until Ctrl-C."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    uploads = tempfile.TemporaryDirectory(prefix="usg_psg_uploads_")  # gradio's own folder is that of all its apps
    os.environ.setdefault("GRADIO_TEMP_DIR", uploads.name)
    try:
        from ..visualization.app import build_app, launch_app
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        hint = "pip install 'gradio>=6', or pip install -e '.[app]' in this repository"
        raise ValueError(f"the app needs gradio: {hint}") from None
    setup_logging()
    check_port(args.host, args.port)
    limits = Limits(args.max_megabytes, args.max_megapixels, seconds=args.max_seconds)
    app = build_app(load_predictors(args), limits)
    options = {"allow_hosts": args.allow_host, "prevent_thread_lock": True, "quiet": True}
    _, url, public = launch_app(app, limits, args.host, args.port, args.share, **options)
    print(f"the app runs at {url}" + (f" and {public}" if public else "") + "; Ctrl-C ends it", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        app.close()
