"""The commands: what each is for, its arguments, and where its work is done.

A function adds a command's arguments to a parser; its docstring is the command's help. Values that the package
knows are repeated here, as importing them would take seconds; tests/cli/test_commands.py compares them.
"""

from __future__ import annotations

import os
from argparse import REMAINDER, ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

from .arguments import (
    Check,
    Define,
    add_config,
    add_number,
    add_trust,
    add_weights,
    positive_integer,
    positive_number,
    score,
    whole_number,
)
from .benchmark_commands import BENCHMARKS
from .chains import quickstart, reproduce
from .data_commands import annotate, check, download, fix, import_data, index, stats
from .model_commands import clip, convert, export, push

SPLITS = ("train", "val", "trainval", "test")
TASKS = ("sgdet", "predcls")
KS = (10, 20, 50, 100)
EXPORT_FORMATS = ("json", "sgbench", "openpsg", "coco_panoptic")
GRAPH_FORMATS = ("graphml", "gexf", "dot", "turtle", "json-ld", "csv")
ERROR_PROTOCOLS = ("single", "openpsg")
PRESETS = ("easy", "psg")
WEAK_SCORE = 0.02
PLOTTED = ("sgdet/single/R@50", "sgdet/single/mR@50", "panoptic/PQ")
MAX_SIDE = 4096  # pixels of an image to analyze; features of larger ones fill the memory


@dataclass(frozen=True)
class Command:
    """A command: its arguments, and the function of a module of `usg_psg.cli` that takes them; or a group of commands.

    Attributes:
        members: names of the group's commands; the next word chooses one.
    """

    arguments: Define
    module: str = ""
    function: str = "run"
    members: tuple[str, ...] = ()


def train(parser: ArgumentParser) -> Check:
    """Train USG-Par, or evaluate it with --eval-only.

    %(prog)s --config-file configs/psg/usg_par_best.yaml --num-gpus 8
    %(prog)s --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
    %(prog)s --config-file ... --eval-only --vocabulary prompts.yaml MODEL.WEIGHTS ...
    %(prog)s --config-file ... SOLVER.IMS_PER_BATCH 8 SOLVER.BASE_LR 5e-4 OUTPUT_DIR output/ablation

    Overrides are KEY VALUE or KEY=VALUE. To continue an interrupted run: the same command with --resume. A new run in
    the folder of an earlier one: --overwrite, which removes that one's checkpoints and logs.
    """
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="recipe")
    add("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR, if any")
    overwrite = "remove the checkpoints and logs of an earlier training in OUTPUT_DIR"
    add("--overwrite", action="store_true", help=overwrite)
    add("--eval-only", action="store_true", help="evaluate, do not train")
    minutes = "make only as many steps as fit in, with a shorter schedule of the learning rate; for one process"
    add("--minutes", type=positive_number, help=minutes)
    add("--num-gpus", type=int, default=1, help="processes on this machine")
    add("--num-machines", type=int, default=1, help="start the program on each of them")
    add("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    # A port of the user's own in the dynamic range: a job that was left running shows as a port in use.
    port = 49152 + (os.getuid() if hasattr(os, "getuid") else 1) % 16384
    meet = "where the processes meet, the same on every machine; 'auto' for a free port of a single one"
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", help=meet)
    add("--vocabulary", metavar="FILE", help="prompts and synonyms, see docs/open_vocabulary.md")
    add("--weights", metavar="FILE", help="MODEL.WEIGHTS: where to start from, or what to evaluate")
    add_trust(parser)
    add("opts", nargs=REMAINDER, help="KEY VALUE overrides, such as SOLVER.BASE_LR 0.001")

    def check(args: Namespace) -> None:
        if not args.config_file:
            given = next((word for word in args.opts if word.endswith((".yaml", ".yml"))), "")
            program = parser.prog if parser.prog.startswith("usg-psg") else "python tools/train_net.py"
            example = f"{program} --config-file {given or 'configs/psg/usg_par_best.yaml'}"
            raise ValueError(f"no recipe is given; type: {example}")
        if args.resume and args.overwrite:
            raise ValueError("--resume goes on with what --overwrite removes: give one of them")

    return check


def demo(parser: ArgumentParser) -> Check:
    """Parse images and videos: for each an overlay of masks and labels, a drawing of the scene graph, and JSON.

    %(prog)s --weights output/quickstart/model_final.pth --input photo.jpg folder/ clip.mp4 --output output/demo

    %(prog)s --weights user/model --input photos/ --jsonl graphs.jsonl --batch-size 16 --num-gpus 8

    index.html in the output folder shows all of them and needs nothing else; docs/visualization.md says how to use it.
    Ctrl-C ends the run: what is finished stays, and the page of it is written. The same command with --resume goes on.
    """
    add_config(parser, required=False)
    add_weights(parser)
    parser.add_argument("--input", nargs="+", required=True, help="images, videos, folders, glob patterns")
    parser.add_argument("--output", help="folder for the results")
    lines = "append all graphs to this file, one JSON object a line; without --output, nothing is drawn"
    parser.add_argument("--jsonl", metavar="FILE", help=lines)
    resume = "go on with an interrupted run: skip images whose results are there"
    parser.add_argument("--resume", action="store_true", help=resume)
    add_number(parser, "--batch-size", positive_integer, 1, "images in a pass of the network")
    add_number(parser, "--num-gpus", positive_integer, 1, "processes, each with a GPU and a share of the files")
    add_number(parser, "--threads", positive_integer, 4, "of each process, which decode the next images")
    add_number(parser, "--top-k", whole_number(0), 10, "relations in the drawings, the JSON has all")
    drawn = "least score in the drawings, and at which the page starts"
    add_number(parser, "--score-threshold", score, WEAK_SCORE, drawn, "S")
    parser.add_argument("--svg", action="store_true", help="also write the drawing of the graph as SVG")
    formats = "also write the graph for other programs, see docs/visualization.md"
    parser.add_argument("--format", nargs="+", choices=GRAPH_FORMATS, default=[], help=formats)
    video = "images of a folder are the frames of one video, in the order of their names; one process parses them"
    parser.add_argument("--video", action="store_true", help=video)
    lost = "parsed frames after which an unseen object of a video, when seen again, is a new one"
    add_number(parser, "--max-lost", whole_number(0), 30, lost)
    add_number(parser, "--frame-step", positive_integer, 1, "parse every N-th frame of a video")
    add_number(parser, "--max-frames", positive_integer, None, "frames of each video")
    add_number(parser, "--page-relations", whole_number(0), 200, "relations per image on the page")
    add_number(parser, "--page-images", whole_number(0), 300, "images on the page, the first ones")
    parser.add_argument("--vocabulary", metavar="FILE", help="names to look for, see docs/open_vocabulary.md")
    given = "the images' objects, whose relations alone are wanted: scene graphs, predictions or a PSG file"
    parser.add_argument("--masks", type=Path, metavar="FILE", help=given + ", see docs/visualization.md")
    root = "panoptic PNGs of a PSG file in --masks, default ../coco beside the file's folder"
    parser.add_argument("--image-root", type=Path, help=root)

    def check(args: Namespace) -> None:
        if not (args.weights or args.config_file):
            raise ValueError(
                "no model is given: --weights, a checkpoint, a folder, or user/model on the Hugging Face Hub"
            )
        if not (args.output or args.jsonl):
            raise ValueError("--output or --jsonl: expected at least one of them, got none")

    return check


def app(parser: ArgumentParser) -> None:
    """Serve a web page: an image or the webcam in; masks, scene graph, table of relations and JSON out.

    pip install -e .[app]
    %(prog)s --weights output/quickstart/model_final.pth

    Several models can be chosen from on the page. Their own configurations count, unless one is given for all, or one
    for each.
    """
    add_config(parser, nargs="+", required=False)
    add_weights(parser, nargs="+", required=True)
    parser.add_argument("--share", action="store_true", help="also publish the page through gradio's servers")
    _add_address_and_limits(parser, 7860)


def serve(parser: ArgumentParser) -> None:
    """Serve scene graphs over HTTP: POST an image to /scene-graph, get its JSON.

    pip install -e .[serve]
    %(prog)s --weights output/quickstart/model_final.pth
    curl --data-binary @photo.jpg "http://127.0.0.1:8000/scene-graph?top_k=20"

    /docs describes the requests, /model the model; /health, /ready and /metrics are for those who run it. SIGTERM or
    Ctrl-C ends it when all requests are answered, a second one at once.
    """
    add_config(parser, required=False)
    add_weights(parser, required=True)
    parser.add_argument("--vocabulary", metavar="FILE", help="names to look for, see docs/open_vocabulary.md")
    _add_address_and_limits(parser, 8000)
    add_number(parser, "--max-batch", positive_integer, 8, "images in a pass of the network")
    add_number(parser, "--max-wait", positive_number, 10, "that an image waits for others, if it is alone", "MS")
    add_number(parser, "--queue", positive_integer, 64, "requests at a time; others get 503")
    add_number(parser, "--threads", positive_integer, 4, "that decode images")


def _add_address_and_limits(parser: ArgumentParser, port: int) -> None:
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    add_number(parser, "--port", whole_number(0, 65535), port, "to listen on")
    add("--allow-host", nargs="+", default=[], metavar="NAME", help="more names that it is reached under")
    add_number(parser, "--max-megabytes", positive_number, 20, "largest upload")
    add_number(parser, "--max-megapixels", positive_number, 30, "largest image")
    add_number(parser, "--max-seconds", positive_number, 120, "for one image")


def evaluate(parser: ArgumentParser) -> Check:
    """Score a file of predictions, of any model, against PSG annotations.

    %(prog)s --gt datasets/psg/psg.json --pred predictions.json

    The file may be this project's predictions.json, SGBench's archive, the folder of an OpenPSG submission, the
    results.pkl of OpenPSG, HiLo or Pair-Net, or COCO's panoptic results; its content tells. docs/evaluation.md
    describes each.
    """
    add = parser.add_argument
    add("--gt", required=True, type=Path, help="psg.json, or a file of the same form")
    add("--pred", required=True, type=Path, help="predictions: a file, or the folder of a submission")
    add("--image-root", type=Path, help="folder of the panoptic PNGs; default: ../coco beside the folder of --gt")
    numbered = "what the numbers in --pred stand for, matched with --gt by name (default: the names of --gt)"
    add("--vocabulary", type=Path, metavar="FILE", help=numbered)
    add("--split", default="test", choices=SPLITS, help="images to score (default: test)")
    add("--task", default="sgdet", choices=TASKS, help="what the model was given (default: sgdet)")
    training = "training data of zero-shot recall, the frequency baseline and head, body and tail: the images outside "
    add("--train", type=Path, metavar="FILE", help=training + "this file's test split (default: --gt)")
    baseline = "also score the most frequent training predicates of each pair of predicted objects"
    add("--frequency-baseline", action="store_true", help=baseline)
    add("--ks", type=positive_integer, nargs="+", default=list(KS), metavar="K", help="ranks of the recalls")
    add("--output", type=Path, help="also write everything to this JSON file")
    export = f"also write the predictions in another format ({', '.join(EXPORT_FORMATS)}) into this folder"
    add("--export", nargs=2, metavar=("FORMAT", "FOLDER"), help=export)
    add("--plots", type=Path, metavar="FOLDER", help="also draw figures into this folder")
    add("--predicates", type=int, metavar="K", help="also print recall@K of every predicate")

    def check(args: Namespace) -> None:
        if args.export and args.export[0] not in EXPORT_FORMATS:
            raise ValueError(f"--export: expected one of {', '.join(EXPORT_FORMATS)}, got {args.export[0]!r}")
        if args.predicates is not None and args.predicates not in args.ks:
            ranks = ", ".join(map(str, args.ks))
            raise ValueError(f"--predicates: expected one of --ks, {ranks}, got {args.predicates}")

    return check


def visualize(parser: ArgumentParser) -> Check:
    """Write an HTML page of a data set's annotation, or of the errors of predictions on it.

    %(prog)s --dataset psg_shapes_val --output output/data
    %(prog)s --config-file cups.yaml --dataset cups_train --output output/cups
    %(prog)s --json datasets/psg/psg.json --image-root datasets/coco --split test --limit 20 --output output/data
    %(prog)s --dataset psg_val --predictions predictions.json --output output/errors

    With --predictions, images come worst first: lowest recall, then most missed triplets. The file may be any that
    tools/evaluate_predictions.py reads, and the rules are those of its protocols (docs/evaluation.md).
    """
    add, source = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="a registered data set: psg_train, psg_val, psg_test, psg_shapes_val, ...")
    source.add_argument("--json", type=Path, help="psg.json, or a file of the same form")
    add("--config-file", default="", metavar="FILE", help="recipe whose IMPORTS register --dataset")
    add_trust(parser)
    add("--image-root", type=Path, help="images of --json, default ../coco beside the file's folder")
    split = "images of --json, default test with --predictions, otherwise trainval"
    add("--split", choices=SPLITS, help=split)
    add("--output", required=True, type=Path, help="folder for index.html, or the name of the page")
    add_number(parser, "--limit", positive_integer, 50, "images on the page")
    add("--image-ids", nargs="+", metavar="ID", help="these images only")
    add("--predictions", type=Path, help="show the errors of this predictions file")
    add("--protocol", default="single", choices=ERROR_PROTOCOLS, help="rules for hits, default single")
    add_number(parser, "--top-k", positive_integer, 20, "predicted triplets that count", "K")
    add_number(parser, "--page-relations", positive_integer, 1000, "relations per image")

    def check(args: Namespace) -> None:
        if (args.image_root or args.split) and not args.json:
            raise ValueError("--image-root and --split belong to --json")

    return check


def plot(parser: ArgumentParser) -> None:
    """Draw how one or several training runs went: losses, proposals, evaluations.

    %(prog)s output/quickstart --output curves.png
    %(prog)s plain=output/a fixed=output/b --metrics sgdet/single/R@50 --output compare.png

    A run is the OUTPUT_DIR of a training, with a name before it where its folder's does not do. Losses are those of
    every step (losses.jsonl), the last layer's, as parts of their means over the first steps, so that objects and
    relations share one scale; a thick line is a running mean. Proposals and evaluations are those of metrics.json.
    """
    parser.add_argument("runs", nargs="+", metavar="[NAME=]FOLDER")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="PNG, SVG or PDF")
    parser.add_argument("--metrics", nargs="+", default=list(PLOTTED), help=f"default: {' '.join(PLOTTED)}")
    add_number(parser, "--smoothing", positive_integer, 20, "width of the running mean", "STEPS")


def analyze(parser: ArgumentParser) -> None:
    """Count the parameters and FLOPs of each part of a model, as a Markdown table.

    %(prog)s --config-file configs/psg/usg_par_convnext_large.yaml --size 640 640 MODEL.CLIP.PRETRAINED ""

    FLOPs are fvcore's: one multiply-add counts once; normalisations and activations do not count.
    """
    add_config(parser, opts="opts")
    size = whole_number(1, MAX_SIDE)
    parser.add_argument(
        "--size",
        type=size,
        nargs=2,
        default=(640, 640),
        metavar=("HEIGHT", "WIDTH"),
        help="pixels; padded as in inference",
    )


def shapes(parser: ArgumentParser) -> Check:
    """Draw a data set of scenes in PSG's layout; train on psg_shapes_train, evaluate on psg_shapes_val.

    %(prog)s --output datasets/psg_shapes --num-train 2000 --num-val 200
    %(prog)s --output datasets/psg_shapes --num-train 20000 --size 512 --workers 8
    %(prog)s --output datasets/psg_shapes --preset psg --num-train 8000 --num-val 1000 --size 320

    The preset psg has PSG's names and statistics, COCO's shapes and sparse annotation; psg_shapes_val_complete has the
    same test images with all relations, psg_shapes_train_seen the training images with the names that --hold-out
    leaves.
    """
    add = parser.add_argument
    add("--output", required=True, help="folder of the data set")
    add_number(parser, "--num-train", int, 1000, "scenes to train on")
    add_number(parser, "--num-val", int, 100, "held-out scenes")
    size = "HEIGHT WIDTH or SIDE; psg: longer side"
    add("--size", type=int, nargs="+", default=[480, 640], metavar="PIXELS", help=size)
    add("--preset", choices=PRESETS, default="easy")
    add("--seed", type=int, default=0)
    held = "preset psg: classes and predicates that do not occur in training, such as zebra riding"
    add("--hold-out", nargs="+", default=[], metavar="NAME", help=held)
    add_number(parser, "--workers", positive_integer, os.cpu_count() or 1, "processes")
    add("--overwrite", action="store_true", help="replace other generated scenes in the folder")

    def check(args: Namespace) -> None:
        if len(args.size) > 2:
            raise ValueError("--size takes one number or two")

    return check


def data(_parser: ArgumentParser) -> None:
    """Fetch PSG, bring other data sets into its form, and check, count, mend or index one."""


def benchmark(_parser: ArgumentParser) -> None:
    """Measure speed and memory on this machine: training, inference, serving, evaluation, data, operators."""


def env(_parser: ArgumentParser) -> None:
    """Print versions and devices, for the report of an error."""


def completion(parser: ArgumentParser) -> None:
    """Print code by which a shell completes commands and options.

    source <(%(prog)s bash)
    """
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


_NAMED_AS_THEIR_MODULES = (
    *(train, demo, app, serve, evaluate, visualize, plot, analyze, convert, push, export, shapes, clip),
    *(quickstart, reproduce, annotate, env, completion),
)
DATA = {
    "data download": Command(download, "download"),
    "data import": Command(import_data, "import_data"),
    **{
        f"data {define.__name__}": Command(define, "dataset", f"run_{define.__name__}")
        for define in (check, stats, fix, index)
    },
}
COMMANDS = {
    **{define.__name__: Command(define, define.__name__) for define in _NAMED_AS_THEIR_MODULES},
    "data": Command(data, members=tuple(DATA)),
    **DATA,
    "benchmark": Command(benchmark, members=tuple(f"benchmark {define.__name__}" for define in BENCHMARKS)),
    **{f"benchmark {define.__name__}": Command(define, f"benchmark.{define.__name__}") for define in BENCHMARKS},
}
