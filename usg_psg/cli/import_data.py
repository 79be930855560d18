"""Brings data sets of other formats into PSG's."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ..data.coco_panoptic import convert_coco_panoptic, psg_content
from ..data.label_studio import Change, read_corrections
from ..data.panoptic import encode_panoptic
from ..data.sources.hub import HubDataset
from ..data.sources.hub_import import import_hub
from ..utils.files import read_json, write_json, write_whole
from ..utils.text import printable
from ..vocabulary import Vocabulary


def run(args: Namespace) -> None:
    """Import from args.source."""
    run_source = {"coco-panoptic": _run_coco_panoptic, "hub": _run_hub, "label-studio": _run_label_studio}
    run_source[args.source](args)


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
    print(f"usg-psg data check --json {args.output / 'psg.json'} --image-root {args.output}")


def _run_label_studio(args: Namespace) -> None:
    """Write psg.json, the PNGs that are new or changed, and the list of changes."""
    vocabulary = Vocabulary.read(args.tasks / "vocabulary.json")
    exported, tasks = (read_json(path) for path in (args.export, args.tasks / "tasks.json"))
    folder = args.panoptic or f"panoptic_{args.output.stem}"
    if (args.image_root / folder).exists():
        raise ValueError(f"--panoptic: {args.image_root / folder} exists; it is not overwritten")
    records: list[dict] = []
    changes: list[Change] = []
    test_ids, left_out = [], 0
    try:
        for data, found in read_corrections(exported, tasks, vocabulary, latest=args.latest):
            if found is None:
                left_out += 1
                continue
            png = data.get("pan_seg_file_name", "") if found.same_masks else ""
            if not png:
                png = f"{folder}/{PurePosixPath(data['file_name']).with_suffix('.png')}"
                _write_png(args.image_root / png, found.id_map)
            records.append(found.record(vocabulary, png))
            changes += found.changes
            test_ids += [data["image_id"]] if data.get("split") == "test" else []
    except ValueError as error:
        raise ValueError(f"{args.export}: {error}") from error
    log = args.log or Path(f"{args.output}.changes.json")
    write_json(log, {"export": str(args.export), "changes": [asdict(change) for change in changes]})
    write_json(args.output, psg_content(vocabulary, records, test_ids), indent=None)
    for change in changes:
        print(printable(change.describe()))
    counts = ", ".join(f"{what} {n:,}" for what, n in Counter(c.what for c in changes).items()) or "no change"
    print(f"{args.output}: {len(records):,} images, {left_out:,} not annotated; {counts}; all changes are in {log}")


def _write_png(path: Path, id_map: np.ndarray) -> None:
    if path.exists():
        raise ValueError(f"{path}: two images would have this PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, partial(Image.fromarray(encode_panoptic(id_map)).save, format="PNG"))
