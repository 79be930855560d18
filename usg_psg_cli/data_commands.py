"""The commands about data sets in PSG's format: fetched, brought into it, checked, counted, cleaned."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from .arguments import Check, add_number, positive_integer, positive_number, score, whole_number

IMAGES = ("psg", "all", "none")
PSG_REPOSITORY = "maelic/PSG-coco-format"
COCO_URL = "http://images.cocodataset.org"
MIN_IOU = 0.5
TIMEOUT = 60.0
LOCAL_FILES = "/data/local-files/?d="  # Label Studio's address of files below its document root


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
    """Bring a data set of another format into PSG's: COCO's panoptic annotation, one of the Hub, or Label Studio's.

    %(prog)s coco-panoptic --json datasets/coco/annotations/panoptic_train2017.json \\
        --test-json datasets/coco/annotations/panoptic_val2017.json --exclude datasets/psg/psg.json \\
        --output datasets/psg/coco_panoptic.json
    %(prog)s hub maelic/VG150-coco-format --boxes-as-masks --output datasets/vg150
    %(prog)s label-studio export.json --tasks tasks --image-root my_data --output my_data/corrected.json
    """
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    coco = sources.add_parser("coco-panoptic", help="objects without relations, to train on objects alone")
    add = coco.add_argument
    add("--json", required=True, type=Path, help="COCO's panoptic JSON, such as panoptic_train2017.json")
    add("--test-json", type=Path, metavar="FILE", help="the same of the test images, such as panoptic_val2017.json")
    add("--exclude", type=Path, metavar="PSG.json", help="leave its test images out of the images to train on")
    add("--output", required=True, type=Path, metavar="OUT.json", help="must not exist")
    images = "of the images, below the later --image-root (default: train2017 for panoptic_train2017)"
    add("--images", metavar="FOLDER", default="", help=images)
    add("--panoptic", metavar="FOLDER", default="", help="of the PNGs, likewise (default: the name of --json)")
    hub = sources.add_parser("hub", help=f"a data set in the layout of {PSG_REPOSITORY}, with its images")
    add = hub.add_argument
    add("repository", help="USER/NAME on the Hub")
    add("--output", required=True, type=Path, metavar="FOLDER", help="image root; gets psg.json, too")
    boxes = "give an object without segmentation its whole box as mask, small objects on top"
    add("--boxes-as-masks", action="store_true", help=boxes)
    _add_hub(hub)
    studio = sources.add_parser("label-studio", help="tasks of `annotate label-studio`, annotated or corrected")
    add = studio.add_argument
    add("export", type=Path, metavar="EXPORT.json", help="that Label Studio exported, in its format JSON")
    add("--tasks", required=True, type=Path, metavar="FOLDER", help="that `annotate label-studio` wrote")
    add("--image-root", required=True, type=Path, metavar="FOLDER", help="of the images; gets the panoptic PNGs")
    add("--output", required=True, type=Path, metavar="OUT.json", help="must not exist")
    add("--log", type=Path, metavar="FILE.json", help="list of all changes, default OUT.json.changes.json")
    png = "in the image root, of new and changed PNGs; must not exist (default: panoptic_OUT)"
    add("--panoptic", metavar="FOLDER", default="", help=png)
    add("--latest", action="store_true", help="of several annotations of a task, take the last")

    def check(args: Namespace) -> None:
        if args.source == "hub":
            _check_categories(args)
            return
        names = ("export", "tasks", "image_root") if args.source == "label-studio" else ("json", "test_json", "exclude")
        for name in names:
            path, folder = getattr(args, name), name in ("tasks", "image_root")
            if path is not None and not (path.is_dir() if folder else path.is_file()):
                option = name if name == "export" else f"--{name.replace('_', '-')}"
                raise ValueError(f"{option}: there is no {'folder' if folder else 'file'} {path}")
        if args.output.exists():
            raise ValueError(f"--output: {args.output} exists; it is not overwritten")

    return check


def annotate(parser: ArgumentParser) -> Check:
    """Write tasks for Label Studio: of a data set to correct, of a model's predictions to accept, or of bare images.

    %(prog)s label-studio --json my_data/psg.json --image-root my_data --output tasks
    %(prog)s label-studio --image-root photos --vocabulary model_final.pth --predictions output/demo --output tasks
    %(prog)s label-studio --image-root photos --vocabulary names.yaml --output tasks

    The folder gets tasks.json (import it into a project), labeling.xml (the project's labelling interface) and
    vocabulary.json; `import label-studio` reads it again, with the project's export. docs/own_data.md leads through.
    """
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    add = (
        studio := tools.add_parser("label-studio", help="masks as brush regions, relations with predicates")
    ).add_argument
    add("--image-root", required=True, type=Path, metavar="FOLDER", help="of images, or that --json is relative to")
    add("--output", required=True, type=Path, metavar="FOLDER", help="must not exist")
    add("--json", type=Path, metavar="PSG.json", help="a data set: its images, annotation and names")
    add("--vocabulary", type=Path, metavar="FILE", help="names, where there is no --json; a model's file has them, too")
    add("--predictions", type=Path, metavar="FOLDER", help="of the JSON files that `demo` wrote, to start from")
    add("--image-ids", nargs="+", metavar="ID", help="only these images")
    add_number(studio, "--top-k", whole_number(0), 20, "relations of a prediction, one for a pair")
    share = "of the images that belong to no data set yet are for testing"
    add_number(studio, "--test-share", score, 0.2, share, "SHARE")
    url = f"what stands before file names, for Label Studio to find the images (default {LOCAL_FILES})"
    add("--url", default=LOCAL_FILES, metavar="PREFIX", help=url.replace("%", "%%"))

    def check(args: Namespace) -> None:
        if (args.json is None) == (args.vocabulary is None):
            raise ValueError("--json or --vocabulary: expected one of them")
        for name in ("image_root", "predictions"):
            if (path := getattr(args, name)) is not None and not path.is_dir():
                raise ValueError(f"--{name.replace('_', '-')}: there is no folder {path}")
        if args.output.exists():
            raise ValueError(f"--output: {args.output} exists; it is not overwritten")

    return check


def _add_hub(parser: ArgumentParser) -> None:
    parser.add_argument("--revision", metavar="REV", help="commit, branch or tag on the Hub (default: the newest)")
    parser.add_argument("--hub-url", metavar="URL", help="a mirror of the Hub (default: $HF_ENDPOINT)")
    names = "names of categories and predicates, where the data set has no categories.json"
    parser.add_argument("--categories", type=Path, metavar="FILE.json", help=names)


def _check_categories(args: Namespace) -> None:
    if args.categories is not None and not args.categories.is_file():
        raise ValueError(f"--categories: there is no file {args.categories}")


def check(parser: ArgumentParser) -> Check:
    """List every problem of a data set: errors, what the loader mends, and warnings.

    %(prog)s --json datasets/psg/psg.json --image-root datasets/coco --workers 8

    The status is 0 if the loader takes every image, 1 if not, 2 for wrong arguments, 130 after Ctrl-C.
    """
    _add_images(parser)
    add_number(parser, "--limit-examples", positive_integer, 5, "of each kind")
    report = "also write the report to this file"
    parser.add_argument("--report", type=Path, metavar="FILE.json", help=report)
    parser.add_argument("--psg-names", action="store_true", help="the file must have PSG's names, as psg_train expects")
    return _check_paths


def index(parser: ArgumentParser) -> Check:
    """Write JSON_FILE.index, from which a data set is loaded in no time."""
    _add_json(parser)
    return _check_paths


def stats(parser: ArgumentParser) -> Check:
    """Count the objects, relations, predicates and pairs of a data set.

    %(prog)s --json datasets/psg/psg.json --output statistics
    """
    _add_json(parser)
    complete = "the same images with all relations: which share is annotated"
    parser.add_argument("--complete", type=Path, metavar="FILE.json", help=complete)
    output = "also write statistics.json and predicates.png"
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=output)
    return _check_paths


def fix(parser: ArgumentParser) -> Check:
    """Write a copy of a data set without what the loader rejects.

    %(prog)s --json datasets/psg/psg.json --image-root datasets/coco --output clean.json
    """
    _add_images(parser)
    output = "the copy; must not exist"
    parser.add_argument("--output", required=True, type=Path, metavar="OUT.json", help=output)
    log = "list of all changes, default OUT.json.changes.json"
    parser.add_argument("--log", type=Path, metavar="FILE.json", help=log)

    def check(args: Namespace) -> None:
        _check_paths(args)
        if args.output.exists():
            raise ValueError(f"--output: {args.output} exists; it is not overwritten")
        if args.log is not None and args.log.resolve() == args.output.resolve():
            raise ValueError(f"--log: {args.log} is --output, too")

    return check


def _add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", required=True, type=Path, help="psg.json, or a file of the same form")


def _add_images(parser: ArgumentParser) -> None:
    _add_json(parser)
    root = "folder that its file names are relative to"
    parser.add_argument("--image-root", required=True, type=Path, help=root)
    add_number(parser, "--workers", positive_integer, os.cpu_count() or 1, "processes")
    add_number(parser, "--timeout", positive_number, TIMEOUT, "for one image", "SECONDS")


def _check_paths(args: Namespace) -> None:
    if not args.json.is_file():
        raise ValueError(f"--json: there is no file {args.json}")
    if "image_root" in args and not args.image_root.is_dir():
        raise ValueError(f"--image-root: there is no folder {args.image_root}")
    for name in ("report", "output", "log"):
        path = getattr(args, name, None)
        if path is not None and path.exists() and path.samefile(args.json):
            raise ValueError(f"--{name}: {path} is the input; it is not overwritten")
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"--{name}: there is no folder {path.absolute().parent}")
