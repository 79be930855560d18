"""Serves the web page of the app."""

from __future__ import annotations

import itertools
import os
import socket
import tempfile
import threading
from argparse import Namespace
from pathlib import Path

from ..config import build_cfg
from ..engine.terminal import setup_logging
from ..predictor import SceneGraphPredictor
from ..utils.text import short_paths


def load_predictors(args: Namespace) -> dict[str, SceneGraphPredictor]:
    """A model for each checkpoint, by the name that the page shows.

    Raises:
        ValueError, FileNotFoundError: if the numbers do not fit, or a file is missing or wrong.
    """
    configs, checkpoints = args.config_file, args.checkpoint
    if len(configs) not in (1, len(checkpoints)):
        wanted = f"one, or one for each of the {len(checkpoints)} checkpoints"
        raise ValueError(f"--config-file: expected {wanted}, got {len(configs)}")
    predictors = {}
    shown = short_paths([Path(checkpoint) for checkpoint in checkpoints])
    for config, checkpoint, name in zip(itertools.cycle(configs), checkpoints, shown, strict=False):
        if not os.path.isfile(checkpoint):
            raise FileNotFoundError(f"--checkpoint: there is no file {checkpoint}")
        if name in predictors:
            raise ValueError(f"--checkpoint: {checkpoint} is given twice")
        cfg = build_cfg(config, [*args.opts, "MODEL.WEIGHTS", checkpoint], trust_imports=args.trust_imports)
        predictors[name] = SceneGraphPredictor(cfg)
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
        from ..visualization.app import Limits, build_app, launch_app
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
