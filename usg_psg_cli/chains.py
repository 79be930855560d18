"""Commands that lead from data to results, each a chain of others."""

from __future__ import annotations

import os
from argparse import REMAINDER, ArgumentParser, Namespace
from pathlib import Path

from .arguments import Check, add_number, positive_integer, positive_number


def quickstart(parser: ArgumentParser) -> None:
    """From nothing to scene graphs: generate scenes, train a small model, evaluate it, draw four held-out scenes.

    Every step is an ordinary command, printed before it runs, so that it can be repeated with other settings. It trains
    as many steps as this machine makes in the time given. `make quickstart` calls this.
    """
    parser.add_argument("--output", default="output/quickstart", help="folder for data, checkpoints and drawings")
    parser.add_argument("--minutes", type=positive_number, default=5.0, help="for all together (default: %(default)s)")
    parser.add_argument("--iterations", type=positive_integer, help="training steps, however long they take")
    parser.add_argument("--resume", action="store_true", help="go on with a training that was interrupted")
    add_number(parser, "--num-train", positive_integer, 1200, "generated training scenes")
    add_number(parser, "--num-val", positive_integer, 100, "generated held-out scenes")


def reproduce(parser: ArgumentParser) -> Check:
    """Train and evaluate on PSG as docs/reproduce_psg.md says: check, convert, train, evaluate, write results.

    %(prog)s --datasets datasets --output output/psg --num-gpus 8 --dry-run

    Each step is an ordinary command, shown before it runs; a step whose result stands is skipped, an interrupted
    training goes on. Data and weights that are missing are listed with where to get them. Words behind the options are
    KEY VALUE overrides for conversion, training and evaluation alike.
    """
    add = parser.add_argument
    root = Path(os.environ.get("DETECTRON2_DATASETS") or "datasets")
    add("--datasets", type=Path, default=root, metavar="FOLDER", help="of coco/ and psg/ (default: %(default)s)")
    add("--fcclip", type=Path, metavar="FILE", help="FC-CLIP's weights (default: weights/fcclip_cocopan.pth there)")
    add("--output", type=Path, default=Path("output/psg"), metavar="FOLDER", help="default: %(default)s")
    add_number(parser, "--num-gpus", positive_integer, 8, "processes; one takes the recipe for one GPU")
    add("--config-file", default="", metavar="FILE", help="another recipe that starts from FC-CLIP's weights")
    add("--dry-run", action="store_true", help="only show what is missing and the commands")
    add("opts", nargs=REMAINDER, help="KEY VALUE overrides")

    def check(args: Namespace) -> None:
        if args.fcclip is None:
            args.fcclip = args.datasets / "weights" / "fcclip_cocopan.pth"

    return check
