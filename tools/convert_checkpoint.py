#!/usr/bin/env python
"""Turn a published FC-CLIP or Mask2Former checkpoint into MODEL.WEIGHTS of this project.

    python tools/convert_checkpoint.py --source fcclip --input fcclip_cocopan.pth \\
        --config-file configs/psg/usg_par_convnext_large.yaml --output fcclip_init.safetensors

Every name of the input is used or left out with a reason; docs/warm_start.md explains the choices. To keep the
published computation exactly, convert for and train with the overrides
MODEL.USG.MASK_DECODER.NUM_LAYERS 9 MODEL.USG.MASK_DECODER.LAYER_ORDER cross_first, and NUM_QUERIES of the source.
"""

from __future__ import annotations

import ctrl_c  # noqa: F401  first, as the imports take seconds

# isort: split
import argparse
import sys
from pathlib import Path

import usg_psg  # noqa: F401  selects the engine

# isort: split
from usg_psg.config import build_cfg
from usg_psg.config.checks import check_config
from usg_psg.pretrained.convert import convert, target_model
from usg_psg.pretrained.foreign_checkpoint import SUFFIXES_WRITTEN, read_published, write_converted
from usg_psg.pretrained.report import format_conversion
from usg_psg.pretrained.rules import SOURCES
from usg_psg.utils.program import add_trust_argument, one_line_errors


def numbers(text: str) -> list[int]:
    """ "0,1,5-7" as [0, 1, 5, 6, 7]."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"expected numbers such as 0,1,5-7, got {text!r}")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, choices=SOURCES, help="what the input is")
    parser.add_argument("--input", required=True, type=Path, help="published checkpoint: .pkl, .pth or .safetensors")
    parser.add_argument("--output", required=True, type=Path, help="file to write: .pth or .safetensors")
    parser.add_argument("--config-file", required=True, help="recipe that the weights are for")
    parser.add_argument(
        "--layers",
        type=lambda text: None if text == "first" else numbers(text),
        help="decoder layers to keep: first (default), or numbers such as 0-2,6-8",
    )
    parser.add_argument(
        "--queries",
        default="first",
        type=lambda text: text if text in ("first", "spread") else numbers(text),
        help="queries to keep: first (default), spread, or numbers such as 0-49,100-149",
    )
    parser.add_argument("--with-backbone", action="store_true", help="take FC-CLIP's copy of the OpenCLIP trunk too")
    parser.add_argument("--verbose", action="store_true", help="list every parameter, not only counts")
    add_trust_argument(parser)
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE overrides of the recipe")
    return parser.parse_args(argv)


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    args = parse_args(argv)
    if args.output.suffix not in SUFFIXES_WRITTEN:
        raise ValueError(f"--output {args.output}: expected a file {' or '.join(SUFFIXES_WRITTEN)}")
    cfg = build_cfg(args.config_file, args.opts, trust_imports=args.trust_imports)
    check_config(cfg)
    conversion = convert(
        read_published(args.input),
        args.source,
        target_model(cfg),
        layers=args.layers,
        queries=args.queries,
        with_backbone=args.with_backbone,
    )
    write_converted(args.output, conversion)
    print(format_conversion(conversion, verbose=args.verbose))
    print(f"MODEL.WEIGHTS {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
