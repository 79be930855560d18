#!/usr/bin/env python
"""Draw a data set of scenes in PSG's layout; train on psg_shapes_train, evaluate on psg_shapes_val.

python tools/make_synthetic_psg.py --output datasets/psg_shapes --num-train 2000 --num-val 200
python tools/make_synthetic_psg.py --output datasets/psg_shapes --preset hard --num-train 20000 --size 512 --workers 8
python tools/make_synthetic_psg.py --output datasets/psg_shapes --preset psg --num-train 8000 --num-val 1000 --size 320

The preset psg has PSG's names and statistics, COCO's shapes and sparse annotation; psg_shapes_val_complete has the same
test images with all relations, psg_shapes_train_seen the training images with the names that --hold-out leaves.
"""

from __future__ import annotations

import ctrl_c  # noqa: F401  first, as the imports take seconds

# isort: split
import argparse
import os
import sys

from tqdm import tqdm

import usg_psg  # noqa: F401  selects the engine
from usg_psg.data.psg_shapes import VOCABULARIES, generate_psg_shapes
from usg_psg.utils.program import one_line_errors, positive_integer


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder of the data set")
    parser.add_argument("--num-train", type=int, default=1000, help="default 1000")
    parser.add_argument("--num-val", type=int, default=100, help="held-out scenes, default 100")
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=[480, 640],
        metavar="PIXELS",
        help="HEIGHT WIDTH or SIDE; psg: longer side",
    )
    parser.add_argument("--preset", choices=sorted(VOCABULARIES), default="easy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--hold-out",
        nargs="+",
        default=[],
        metavar="NAME",
        help="preset psg: classes and predicates that do not occur in training, such as zebra riding",
    )
    parser.add_argument(
        "--workers", type=positive_integer, default=os.cpu_count() or 1, help="processes, default cores"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace other generated scenes in the folder")
    args = parser.parse_args(argv)
    if len(args.size) > 2:
        parser.error("--size takes one number or two")
    return args


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Draw the scenes; 0 if they are there."""
    args = parse_args(argv)
    size = (args.size[0], args.size[-1])
    total = args.num_train + args.num_val
    with tqdm(total=total, unit="scene", smoothing=0.05) as bar:
        json_file = generate_psg_shapes(
            args.output,
            args.num_train,
            args.num_val,
            size,
            args.preset,
            args.seed,
            # A process for few scenes costs more than it saves.
            args.workers if args.workers > 1 and total > 100 else 0,
            hold_out=args.hold_out,
            overwrite=args.overwrite,
            progress=bar.update,
        )
    print(f"{total} scenes: {json_file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
