#!/usr/bin/env python
"""Serve a web page: a picture or the webcam in; masks, scene graph, table of relations and JSON out.

    pip install -e .[app]
    python tools/app.py --config-file configs/quickstart/usg_par_quickstart.yaml \\
        --checkpoint output/quickstart/model_final.pth

Several checkpoints can be chosen from on the page; give one configuration for all, or one for each.
"""

from __future__ import annotations

import ctrl_c  # noqa: F401  first, as the imports take seconds

# isort: split
import usg_psg  # noqa: F401  selects the engine, so it comes before detectron2

# isort: split
import argparse
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

from detectron2.utils.logger import setup_logger

from usg_psg.config import build_cfg
from usg_psg.predictor import SceneGraphPredictor
from usg_psg.utils.program import add_trust_argument, one_line_errors, positive_number, whole_number
from usg_psg.utils.text import short_paths


def load_predictors(
    configs: list[str], checkpoints: list[str], opts: list[str], trust_imports: bool = False
) -> dict[str, SceneGraphPredictor]:
    """A model for each checkpoint, by the name that the page shows.

    Raises:
        ValueError, FileNotFoundError: if the numbers do not fit, or a file is missing or wrong.
    """
    if len(configs) not in (1, len(checkpoints)):
        raise ValueError(
            f"--config-file: expected one, or one for each of the {len(checkpoints)} checkpoints, got {len(configs)}"
        )
    configs = configs * len(checkpoints) if len(configs) == 1 else configs
    predictors = {}
    shown = short_paths([Path(checkpoint) for checkpoint in checkpoints])
    for config, checkpoint, name in zip(configs, checkpoints, shown, strict=True):
        if not os.path.isfile(checkpoint):
            raise FileNotFoundError(f"--checkpoint: there is no file {checkpoint}")
        if name in predictors:
            raise ValueError(f"--checkpoint: {checkpoint} is given twice")
        cfg = build_cfg(config, [*opts, "MODEL.WEIGHTS", checkpoint], trust_imports=trust_imports)
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


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", nargs="+", required=True, help="recipe of the models, or one for each")
    parser.add_argument("--checkpoint", nargs="+", required=True, help="weights to choose from")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=whole_number(0, 65535), default=7860)
    parser.add_argument("--share", action="store_true", help="also publish the page through gradio's servers")
    parser.add_argument(
        "--allow-host", nargs="+", default=[], metavar="NAME", help="more names that the page is reached under"
    )
    parser.add_argument(
        "--max-megabytes", type=positive_number, default=20, help="largest upload (default %(default)s)"
    )
    parser.add_argument(
        "--max-megapixels", type=positive_number, default=30, help="largest picture (default %(default)s)"
    )
    parser.add_argument(
        "--max-seconds", type=positive_number, default=120, help="for one picture (default %(default)s)"
    )
    add_trust_argument(parser)
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE overrides of the recipes")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    uploads = tempfile.TemporaryDirectory(prefix="usg_psg_uploads_")  # gradio's own folder is that of all its apps
    os.environ.setdefault("GRADIO_TEMP_DIR", uploads.name)
    try:
        from usg_psg.visualization.app import Limits, build_app, launch_app
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        hint = "pip install 'gradio>=6', or pip install -e '.[app]' in this repository"
        raise ValueError(f"the app needs gradio: {hint}") from None
    setup_logger(name="usg_psg")
    check_port(arguments.host, arguments.port)
    predictors = load_predictors(arguments.config_file, arguments.checkpoint, arguments.opts, arguments.trust_imports)
    limits = Limits(arguments.max_megabytes, arguments.max_megapixels, seconds=arguments.max_seconds)
    app = build_app(predictors, limits)
    options = {"allow_hosts": arguments.allow_host, "prevent_thread_lock": True, "quiet": True}
    _, url, public = launch_app(app, limits, arguments.host, arguments.port, arguments.share, **options)
    print(f"the app runs at {url}" + (f" and {public}" if public else "") + "; Ctrl-C ends it", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        app.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
