"""Turns a published checkpoint into MODEL.WEIGHTS of this project."""

from __future__ import annotations

from argparse import Namespace

from ..config.checks import check_config
from ..pretrained.convert import convert, target_model
from ..pretrained.foreign_checkpoint import read_foreign, write_converted
from ..pretrained.report import format_conversion
from . import config_of


def run(args: Namespace) -> None:
    """Convert the file and say what was used of it."""
    cfg = config_of(args)
    check_config(cfg)
    chosen = {name: getattr(args, name) for name in ("layers", "queries", "with_backbone")}
    conversion = convert(read_foreign(args.input), args.source, target_model(cfg), **chosen)
    write_converted(args.output, conversion)
    print(format_conversion(conversion, verbose=args.verbose))
    print(f"MODEL.WEIGHTS {args.output}")
