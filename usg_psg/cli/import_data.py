"""Brings data sets of other formats into PSG's."""

from __future__ import annotations

from argparse import Namespace

from ..data.coco_panoptic import convert_coco_panoptic
from ..data.sources.hub import HubDataset
from ..data.sources.hub_import import import_hub
from ..utils.files import write_json


def run(args: Namespace) -> None:
    """Import from args.source."""
    {"coco-panoptic": _run_coco_panoptic, "hub": _run_hub}[args.source](args)


def _run_coco_panoptic(args: Namespace) -> None:
    """Write psg.json without relations, from COCO's panoptic JSON."""
    counts = convert_coco_panoptic(
        args.json,
        args.output,
        test_json=args.test_json,
        exclude=args.exclude,
        image_folder=args.images,
        panoptic_folder=args.panoptic,
    )
    images = f"{counts['train']:,} images to train on, {counts['test']:,} to test on"
    excluded = f"; {counts['excluded']:,} left out that {args.exclude} tests on" if args.exclude else ""
    print(f"{args.output}: {images}{excluded}")


def _run_hub(args: Namespace) -> None:
    """Write images, panoptic PNGs and psg.json of a data set of the Hub."""
    hub = HubDataset.open(args.repository, args.revision, args.categories, args.hub_url)
    print(f"{hub.repository} at {hub.commit}: {len(hub.shards)} files")
    content, counts = import_hub(hub, args.output, args.boxes_as_masks, print)
    write_json(args.output / "psg.json", content, indent=None)
    print(f"{args.output / 'psg.json'}: {', '.join(f'{what} {count:,}' for what, count in counts.items())}")
    print(f"usg-psg check --json {args.output / 'psg.json'} --image-root {args.output}")
