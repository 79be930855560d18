"""The commands that make models and pass them on: weights of others, folders and the Hub, exported networks, CLIP."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from .arguments import (
    Check,
    add_config,
    add_number,
    add_weights,
    numbers,
    positive_integer,
    whole_number,
)

SOURCES = ("fcclip", "mask2former")
NETWORK_FORMATS = {"onnx": ".onnx", "torch-export": ".pt2", "aoti": ".pt2", "names": ".names.safetensors"}
SUFFIXES_WRITTEN = (".pth", ".safetensors")


def convert(parser: ArgumentParser) -> Check:
    """Turn a published FC-CLIP or Mask2Former checkpoint into MODEL.WEIGHTS of this project.

    %(prog)s --source fcclip --input fcclip_cocopan.pth \\
        --config-file configs/psg/usg_par_best.yaml --output fcclip_init.safetensors

    Every name of the input is used or left out with a reason; docs/model_zoo.md explains the choices. To keep the
    published computation exactly, convert for and train with the overrides MODEL.USG.MASK_DECODER.NUM_LAYERS 9
    MODEL.USG.MASK_DECODER.LAYER_ORDER cross_first, and NUM_QUERIES of the source.
    """
    add_config(parser)
    add = parser.add_argument
    add("--source", required=True, choices=SOURCES, help="what the input is")
    add("--input", required=True, type=Path, help="published checkpoint: .pkl, .pth or .safetensors")
    add("--output", required=True, type=Path, help="file to write: .pth or .safetensors")
    layers = "decoder layers to keep: first (default), or numbers such as 0-2,6-8"
    add("--layers", type=lambda text: None if text == "first" else numbers(text), help=layers)
    queries = "queries to keep: first (default), spread, or numbers such as 0-49,100-149"
    words = ("first", "spread")
    add("--queries", default="first", type=lambda text: text if text in words else numbers(text), help=queries)
    add("--with-backbone", action="store_true", help="take FC-CLIP's copy of the OpenCLIP trunk too")
    add("--verbose", action="store_true", help="list every parameter, not only counts")

    def check(args: Namespace) -> None:
        if args.output.suffix not in SUFFIXES_WRITTEN:
            raise ValueError(f"--output {args.output}: expected a file {' or '.join(SUFFIXES_WRITTEN)}")

    return check


def push(parser: ArgumentParser) -> Check:
    """Write the folder of a model, which needs neither data set nor recipe, or upload it to the Hugging Face Hub.

    %(prog)s --weights output/psg/model_final.pth --output my_model
    %(prog)s --weights output/psg/model_final.pth --results output/psg/inference/sgdet_psg_test.json --repo user/model

    The folder has weights (safetensors), config, names with their text embeddings, and a model card.
    """
    add_config(parser, required=False)
    add_weights(parser, required=True)
    add = parser.add_argument
    add("--output", type=Path, metavar="FOLDER", help="write the folder here")
    add("--repo", metavar="USER/MODEL", help="upload it to this repository of the Hub, created if it is missing")
    add("--private", action="store_true", help="create the repository as a private one")
    add("--results", type=Path, metavar="FILE.json", help="results of an evaluation, for the model card")
    add(
        "--with-backbone",
        action="store_true",
        help="write a frozen backbone's weights, too, though OpenCLIP gives them",
    )

    def check(args: Namespace) -> None:
        if not (args.output or args.repo):
            raise ValueError("--output or --repo: expected one of them, got none")
        if args.results is not None and not args.results.is_file():
            raise ValueError(f"--results: there is no file {args.results}")

    return check


def export(parser: ArgumentParser) -> Check:
    """Write a model's network for other programs: ONNX, torch.export or a compiled package of AOTInductor.

    %(prog)s --weights output/psg/model_final.pth --format onnx --output model.onnx
    %(prog)s --weights output/psg/model_final.pth --format names --vocabulary mine.yaml --output mine.names.safetensors

    Images, their sizes and the names are free. The names and their text embeddings stand in a file beside it, which
    --format names makes anew for other names. `usg_psg.onnx.OnnxPredictor` runs the ONNX file without PyTorch; see
    docs/export.md.
    """
    add_config(parser, required=False)
    add_weights(parser)
    add = parser.add_argument
    add("--format", required=True, choices=NETWORK_FORMATS, help="what to write")
    add("--output", required=True, type=Path, metavar="FILE", help=", ".join(NETWORK_FORMATS.values()))
    add("--vocabulary", metavar="FILE", help="names to look for, see docs/open_vocabulary.md")
    add("--half", action="store_true", help="onnx: weights and arithmetic in 16 bits")
    size = "onnx: also measure images of this size, in PyTorch and in onnxruntime on the CPU"
    add("--benchmark", type=positive_integer, nargs=2, metavar=("HEIGHT", "WIDTH"), help=size)

    def check(args: Namespace) -> None:
        if not (args.weights or args.config_file):
            raise ValueError("no model is given: --weights, or --config-file with a recipe")
        suffix = NETWORK_FORMATS[args.format]
        if not args.output.name.endswith(suffix):
            raise ValueError(f"--output {args.output}: expected a file {suffix}")
        if args.format != "onnx" and (args.half or args.benchmark):
            raise ValueError("--half and --benchmark belong to --format onnx")

    return check


def clip(parser: ArgumentParser) -> None:
    """Train a small CLIP model on captions made from a data set's annotation, to be frozen as the backbone.

    %(prog)s --data datasets/psg_shapes --output output/clip_shapes.pt

    Its names are those that CLIP may know. To test names that the decoders were never trained on, train those on
    scenes of another folder, made with --hold-out; docs/open_vocabulary.md goes through it.
    """
    add = parser.add_argument
    add("--data", required=True, type=Path, metavar="FOLDER", help="with psg/psg.json and coco/, as `shapes` writes it")
    add("--output", required=True, type=Path, metavar="FILE", help="weights to write, for MODEL.CLIP.PRETRAINED")
    add("--model", default="usg_clip_femto", metavar="NAME", help="an OpenCLIP model with a timm ConvNeXt")
    add_number(parser, "--steps", positive_integer, 2500, "of training")
    add_number(parser, "--batch-size", positive_integer, 512, "captioned windows of a step")
    add_number(parser, "--image-size", positive_integer, 96, "side that windows are scaled to, pixels")
    add_number(parser, "--seed", whole_number(0), 0, "of the windows")
