"""Brings data sets of other formats into PSG's."""

from __future__ import annotations

from argparse import Namespace

from ..data.psg_json import PSGFile, read_psg_json
from ..data.sources.coco import psg_content, read_coco_panoptic
from ..data.sources.hub import HubDataset
from ..data.sources.hub_import import import_hub
from ..utils.files import write_json


def run(args: Namespace) -> None:
    """Import from args.source."""
    {"coco-panoptic": _run_coco_panoptic, "hub": _run_hub}[args.source](args)


def _run_coco_panoptic(args: Namespace) -> None:
    """Write psg.json without relations, from COCO's panoptic JSON."""
    vocabulary, records = read_coco_panoptic(args.json, *_folders(args.json.stem, args))
    if args.exclude:
        excluded = _tested(read_psg_json(args.exclude))
        every, records = len(records), [record for record in records if record["file_name"] not in excluded]
        print(f"without {every - len(records):,} images that {args.exclude} tests on")
    test_ids: list[str] = []
    if args.test_json:
        other, test = read_coco_panoptic(args.test_json, *_folders(args.test_json.stem, args))
        if other != vocabulary:
            raise ValueError(f"{args.test_json}: its classes are not those of {args.json}")
        records, test_ids = records + test, [record["image_id"] for record in test]
    write_json(args.output, psg_content(vocabulary, records, test_ids), indent=None)
    segments = sum(len(record["segments_info"]) for record in records)
    print(f"{args.output}: {len(records):,} images, {len(test_ids):,} of them to test on, {segments:,} segments")


def _tested(psg: PSGFile) -> set[str]:
    """file_name of each test image."""
    images = zip(psg.records, psg.image_ids, strict=True)
    return {record["file_name"] for record, image_id in images if image_id in psg.test_image_ids}


def _folders(stem: str, args: Namespace) -> tuple[str, str]:
    return args.images or stem.removeprefix("panoptic_"), args.panoptic or stem


def _run_hub(args: Namespace) -> None:
    """Write images, panoptic PNGs and psg.json of a data set of the Hub."""
    hub = HubDataset.open(args.repository, args.revision, args.categories, args.hub_url)
    print(f"{hub.repository} at {hub.commit}: {len(hub.shards)} files")
    content, counts = import_hub(hub, args.output, args.boxes_as_masks, print)
    write_json(args.output / "psg.json", content, indent=None)
    print(f"{args.output / 'psg.json'}: {', '.join(f'{what} {count:,}' for what, count in counts.items())}")
    print(f"usg-psg check --json {args.output / 'psg.json'} --image-root {args.output}")
