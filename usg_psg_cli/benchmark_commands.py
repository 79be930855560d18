"""The commands `benchmark ...`: speed and memory on the machine where they run, mostly on generated scenes."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from .arguments import Check, add_config, add_number, positive_integer, positive_number, whole_number

RUNS = ("fp32", "noise", "bf16", "fp16")
DTYPES = ("fp32", "bf16", "fp16")
SAMPLES = ("encoder", "uniform")


def train(parser: ArgumentParser) -> None:
    """Throughput, time by part and peak memory of training steps, with the real data loader.

    %(prog)s --config-file configs/psg/usg_par_convnext_large.yaml --batch-size 8 16 --opts MODEL.CLIP.PRETRAINED ""
    %(prog)s --config-file ... --batch-size 16 --num-gpus 1 2 4 --opts ...   # how it scales
    %(prog)s --config-file ... --profile kernels.txt --opts ...              # where time goes

    Images are generated scenes (psg_shapes, drawn into --data if it is not there yet), read from disk and augmented by
    loader workers; text embeddings are random, as many as PSG has names; weights are random unless the recipe's can be
    loaded. Throughput is the wall-clock time of steps that nothing interrupts (their median, on a GPU from its own
    clock, tells what a machine does that is not disturbed now and then); the parts are then timed in further steps, on
    a GPU between CUDA events. Batch sizes are per GPU; with several GPUs, parts and memory are the first one's, the
    wait for data is the longest of all.
    """
    add_config(parser)
    add = parser.add_argument
    add("--batch-size", type=positive_integer, nargs="+", default=[16], help="images per GPU")
    processes = "processes; CPU cores where no GPU is"
    add("--num-gpus", type=positive_integer, nargs="+", default=[1], help=processes)
    add_number(parser, "--iterations", positive_integer, 40, "timed steps")
    add_number(parser, "--warmup", positive_integer, 10, "steps before them")
    _add_scenes(parser, 256)
    add("--profile", metavar="FILE", help="write what single kernels take, of the last configuration")


def amp(parser: ArgumentParser) -> None:
    """Train the same batches in float32, bfloat16 and float16: do losses agree, and is anything not finite?

    %(prog)s --config-file configs/psg/usg_par_convnext_large.yaml --iterations 200 \\
        --opts MODEL.CLIP.PRETRAINED "" SOLVER.IMS_PER_BATCH 8
    %(prog)s --config-file ... --iterations 5000 --runs bf16 fp16 --opts ...

    Every run starts from the same weights and sees the same images. "noise" is float32 again with other random points
    in matching and mask losses: what the numbers differ by anyway. Differences are in percent of the first run's
    losses: of single steps over the first 20, before runs drift apart, and the largest among the means of each tenth of
    the steps, to be compared with what it is for "noise". Without a GPU every run is in float32, which only shows that
    the program works.
    """
    add_config(parser)
    add_number(parser, "--iterations", positive_integer, 200, "steps of each run")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="the first is compared with")
    _add_scenes(parser, 512)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the losses of every step")


def inference(parser: ArgumentParser) -> None:
    """Latency from one image to its scene graph, as a whole and by part; or the throughput for a folder of images.

    %(prog)s --config-file configs/psg/usg_par_convnext_large.yaml \\
        --opts MODEL.CLIP.PRETRAINED "" TEST.USG.DTYPE bfloat16 TEST.USG.COMPILE graphs
    %(prog)s --config-file ... --folder photos/ --batch-size 1 4 16 --opts ...

    The whole is `SceneGraphPredictor`'s time for an image in memory, masks encoded, on the wall clock; the parts are
    timed in further calls, on a GPU between CUDA events. Without MODEL.WEIGHTS the weights are random: masks and
    classes of --objects made-up objects then replace what the network found, which gives the post-processing its usual
    work in every type and mode.

    With --folder: images per second of `SceneGraphPredictor.stream`, from files to JSON, one row for each batch size.
    """
    add_config(parser)
    size = (
        "height and width of the image, and of what the network sees: INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST become it"
    )
    add_number(parser, "--size", positive_integer, 640, size)
    _add_stand_ins(parser)
    add_number(parser, "--iterations", positive_integer, 50, "timed images")
    add_number(parser, "--warmup", positive_integer, 10, "images before them")
    profile = "write what single kernels, launches and waits take, of calls that are timed nowhere else"
    parser.add_argument("--profile", type=Path, metavar="FILE", help=profile)
    parser.add_argument("--folder", type=Path, help="of images: measure throughput instead, in a second pass over it")
    parser.add_argument("--batch-size", type=positive_integer, nargs="+", default=[1, 4, 16], metavar="N")
    add_number(parser, "--threads", positive_integer, 4, "that decode the folder's images")


def serve(parser: ArgumentParser) -> None:
    """Load test of `usg-psg serve` on the loopback address: requests per second and latency, by batch size and wait.

    %(prog)s --config-file configs/psg/usg_par_convnext_large.yaml --clients 32 --max-batch 1 4 16 \\
        --opts MODEL.CLIP.PRETRAINED "" TEST.USG.DTYPE bfloat16

    Clients in threads of this process send one JPEG after the other, each as soon as its last one is answered. Without
    MODEL.WEIGHTS the weights are random, and made-up objects replace the results, as in `benchmark inference`.
    """
    add_config(parser)
    _add_size(parser)
    _add_stand_ins(parser)
    add_number(parser, "--clients", positive_integer, 16, "at a time")
    add_number(parser, "--requests", positive_integer, 200, "for each batch size, after a tenth of it unmeasured")
    parser.add_argument("--max-batch", type=positive_integer, nargs="+", default=[1, 4, 16], metavar="N")
    add_number(parser, "--max-wait", positive_number, 10, "that an image waits for others", "MS")


def evaluate(parser: ArgumentParser) -> Check:
    """Speed and memory of SGDet evaluation: every protocol, panoptic quality and oracle recall.

    %(prog)s                      # 1,000 images of 640 x 480
    %(prog)s --images 200 --json results.json

    Each image has --segments annotated segments, --masks predicted masks that overlap each other, and --triplets
    predicted triplets. Everything is timed on arrays in memory, one thread, decoding of images left out. Time per image
    and resident memory are also shown for each tenth of the images: neither may grow.
    """
    add_number(parser, "--images", positive_integer, 1000, "images")
    _add_size(parser)
    for name, default, text in (
        ("--segments", 20, "annotated segments per image"),
        ("--annotated", 6, "annotated triplets per image; PSG has 5.7"),
        ("--masks", 100, "predicted masks per image"),
        ("--triplets", 100, "predicted triplets per image"),
        ("--distinct", 10, "different images, taken in turns"),
    ):
        add_number(parser, name, positive_integer, default, text)
    parser.add_argument("--json", type=Path, help="also write the figures here")

    def check(args: Namespace) -> None:
        if not 2 <= args.segments <= args.masks:
            raise ValueError(f"--segments: expected 2 to {args.masks}, as many as --masks, got {args.segments}")
        for library in ("OMP", "OPENBLAS", "MKL"):  # which read it when they are loaded, after this
            os.environ[f"{library}_NUM_THREADS"] = "1"

    return check


def data(parser: ArgumentParser) -> None:
    """Speed of checking a data set, and time and memory of loading its file with and without an index.

    %(prog)s --images 500 --workers 1 --records 49000

    The scenes are drawn first (480 x 640), in a folder that goes afterwards, unless --data names one to keep and use
    again. Seconds of the processor are given besides the clock's, as other programs on the machine slow down only the
    latter.
    """
    add_number(parser, "--images", positive_integer, 300, "scenes to draw and check")
    add_number(parser, "--workers", positive_integer, 1, "processes that check")
    add_number(parser, "--repeats", positive_integer, 3, "passes over the scenes")
    add_number(parser, "--records", positive_integer, 49_000, "records of the file that is loaded")
    parser.add_argument("--data", type=Path, help="folder of the scenes")


def memory(parser: ArgumentParser) -> None:
    """Memory of a training run, of the trainer and of each loader worker, sampled on the way; fails if it grows.

    %(prog)s --iterations 5000 --workers 2

    Trains the quickstart's model, made smaller still, on generated scenes of 64 x 64 pixels on the CPU, with everything
    that a long run has: moving average, checkpoints, loss log, writers, and evaluations in between. The second quarter
    of the samples is compared with the last one, as the first quarter fills caches. Needs Linux (/proc).
    """
    add_number(parser, "--iterations", whole_number(80), 5000, "80 or more")
    add_number(parser, "--workers", whole_number(0), 2, "loader processes")
    add_number(parser, "--limit", positive_number, 4.0, "largest growth", "MIB")
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE overrides")


def ops(parser: ArgumentParser) -> None:
    """Times of deformable attention, forward and backward, for every available backend, beside the memory's floor.

    %(prog)s                      # the GPU if there is one, else the CPU
    %(prog)s --device cpu --batch 1

    The floor is the time that a plain copy takes to move the bytes that must be moved once: every input read, every
    output written. Two kinds of samples are timed: "encoder", every token looking around its own place with the offsets
    that the layer starts training with plus noise, and "uniform", samples anywhere in the image, the worst case for
    caches. Backends take turns within one run, and medians are shown; of a GPU's memory, what the backward pass takes
    at its peak, gradients included.
    """
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), help="default: the GPU if there is one")
    add("--batch", type=positive_integer, nargs="+", help="images (default: 16 and 1 on a GPU, 1 on a CPU)")
    add("--levels", type=_levels, default=[(20, 20), (40, 40), (80, 80)], help="HxW of each level")
    add("--dtypes", nargs="+", choices=DTYPES, help="default: fp32 and bf16 on a GPU, fp32 on a CPU")
    add("--samples", nargs="+", default=SAMPLES, choices=SAMPLES)
    add("--repeats", type=positive_integer, help="timed rounds (default: 50 on a GPU, 7 on a CPU)")
    add("--threads", type=positive_integer, help="CPU threads")
    add("--json", type=Path, help="also write the rows here")


def _add_scenes(parser: ArgumentParser, count: int) -> None:
    parser.add_argument("--data", help="folder of the scenes; default a new temporary one")
    add_number(parser, "--num-scenes", positive_integer, count, "scenes to draw")


def _add_stand_ins(parser: ArgumentParser) -> None:
    add_number(parser, "--objects", positive_integer, 15, "that stand in, with random weights")


def _add_size(parser: ArgumentParser) -> None:
    parser.add_argument("--size", type=positive_integer, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))


def _levels(text: str) -> list[tuple[int, int]]:
    """Type of an argument such as "20x20,40x40"."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*(,[1-9]\d*x[1-9]\d*)*", text):
        raise ArgumentTypeError(f"expected HxW,HxW,..., got {text!r}")
    return [(int(height), int(width)) for height, width in re.findall(r"(\d+)x(\d+)", text)]


BENCHMARKS = (train, amp, inference, serve, evaluate, data, memory, ops)
