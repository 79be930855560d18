"""Draws a data set of scenes in PSG's layout."""

from __future__ import annotations

from argparse import Namespace

from tqdm import tqdm

from ..data.psg_shapes import generate_psg_shapes


def run(args: Namespace) -> None:
    """Draw the scenes."""
    total = args.num_train + args.num_val
    tqdm.monitor_interval = 0  # no thread: the worker processes are forked
    with tqdm(total=total, unit="scene", smoothing=0.05) as bar:
        json_file = generate_psg_shapes(
            args.output,
            args.num_train,
            args.num_val,
            (args.size[0], args.size[-1]),
            args.preset,
            args.seed,
            # A process for few scenes costs more than it saves.
            args.workers if args.workers > 1 and total > 100 else 0,
            hold_out=args.hold_out,
            overwrite=args.overwrite,
            progress=bar.update,
        )
    print(f"{total} scenes: {json_file}")
