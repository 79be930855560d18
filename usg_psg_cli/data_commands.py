"""The commands that bring data sets of others into PSG's format."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from .arguments import Check, score

IMAGES = ("psg", "all", "none")
PSG_REPOSITORY = "maelic/PSG-coco-format"
COCO_URL = "http://images.cocodataset.org"
MIN_IOU = 0.5


def download(parser: ArgumentParser) -> Check:
    """Fetch PSG: COCO's images and panoptic PNGs, and psg.json, made of the Hub's boxes and relations.

    %(prog)s --output datasets --dry-run
    %(prog)s --output datasets

    psg.json is made by matching each object of PSG, of which the Hub has category and box, with COCO's segment of the
    same category and box; psg.report.json says of every image what became of it. Image ids are COCO's. A psg.json that
    is there stays, and the files that it names are fetched. Interrupted at any time, the same command goes on.
    """
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="FOLDER", help="gets coco/, psg/ and archives/")
    images = "unpack those of PSG (default), all of COCO, or none: then no image is fetched, PNGs and psg.json are"
    add("--images", choices=IMAGES, default="psg", help=images)
    add("--dry-run", action="store_true", help="say what would be fetched, and end")
    iou = f"least overlap of an object's box with its segment's (default {MIN_IOU:g})"
    add("--min-iou", type=score, default=MIN_IOU, metavar="IOU", help=iou)
    add("--coco-url", default=COCO_URL, metavar="URL", help=f"a mirror of {COCO_URL}")
    add("--hub", default=PSG_REPOSITORY, metavar="REPOSITORY", help=f"data set of the Hub (default {PSG_REPOSITORY})")
    _add_hub(parser)

    def check(args: Namespace) -> None:
        if args.min_iou <= 0:
            raise ValueError(f"--min-iou: expected more than 0, got {args.min_iou:g}")
        _check_categories(args)

    return check


def import_data(parser: ArgumentParser) -> Check:
    """Bring a data set of another format into PSG's: COCO's panoptic annotation, or one of the Hub.

    %(prog)s coco-panoptic --json datasets/coco/annotations/panoptic_train2017.json --output objects.json
    %(prog)s hub maelic/VG150-coco-format --boxes-as-masks --output datasets/vg150
    """
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    coco = sources.add_parser("coco-panoptic", help="objects without relations, to train on objects alone")
    add = coco.add_argument
    add("--json", required=True, type=Path, help="COCO's panoptic JSON, such as panoptic_train2017.json")
    add("--test-json", type=Path, metavar="FILE", help="the same of the test images, such as panoptic_val2017.json")
    add("--output", required=True, type=Path, metavar="OUT.json", help="must not exist")
    add(
        "--images", metavar="FOLDER", help="of the images in the image root (default: train2017 for panoptic_train2017)"
    )
    add("--panoptic", metavar="FOLDER", help="of the PNGs (default: the name of --json)")
    hub = sources.add_parser("hub", help=f"a data set in the layout of {PSG_REPOSITORY}, with its images")
    add = hub.add_argument
    add("repository", help="USER/NAME on the Hub")
    add("--output", required=True, type=Path, metavar="FOLDER", help="image root; gets psg.json, too")
    boxes = "give an object without segmentation its whole box as mask, small objects on top"
    add("--boxes-as-masks", action="store_true", help=boxes)
    _add_hub(hub)

    def check(args: Namespace) -> None:
        if args.source == "hub":
            _check_categories(args)
            return
        for name, path in (("json", args.json), ("test-json", args.test_json)):
            if path is not None and not path.is_file():
                raise ValueError(f"--{name}: there is no file {path}")
        if args.output.exists():
            raise ValueError(f"--output: {args.output} exists; it is not overwritten")

    return check


def _add_hub(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--revision", metavar="REV", help="commit, branch or tag of the Hub's data set (default: newest)"
    )
    parser.add_argument("--hub-url", metavar="URL", help="a mirror of the Hub (default: $HF_ENDPOINT)")
    names = "names of categories and predicates, where the data set has no categories.json"
    parser.add_argument("--categories", type=Path, metavar="FILE.json", help=names)


def _check_categories(args: Namespace) -> None:
    if args.categories is not None and not args.categories.is_file():
        raise ValueError(f"--categories: there is no file {args.categories}")
