"""From data and published weights to results on PSG: checks, trains, evaluates, and writes down what came out."""

from __future__ import annotations

import json
import os
import platform
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..compat import engine_name
from ..config import build_cfg
from ..data.sources.coco import ARCHIVES, COCO_URL
from ..utils.files import write_json
from . import steps

RECIPES = {True: "psg/usg_par_best_1gpu.yaml", False: "psg/usg_par_best.yaml"}  # by whether there is one GPU
TEST = "psg_test"
# Name of each evaluation: what it shows, its task and its settings. Every protocol comes from each of them.
EVALUATIONS: dict[str, tuple[str, str, list[str]]] = {
    "sgdet": (
        "scene graphs from the image alone",
        "sgdet",
        ["TEST.USG.EXPORT", "json", "TEST.USG.FREQUENCY_BASELINE", "True"],
    ),
    "sgdet_unadjusted": (
        "the same, without the adjustment of logits for rare predicates",
        "sgdet",
        ["TEST.USG.PREDICATE_LOGIT_ADJUSTMENT", "0.0"],
    ),
    "predcls": ("predicates between given masks and labels", "predcls", ["TEST.TASK", "predcls"]),
}


@dataclass(frozen=True)
class Input:
    """What the chain needs and does not make.

    Attributes:
        path: a file, or a folder that is not empty.
        source: where to get it, and how large that is.
        unpack: what to do with it.
    """

    path: Path
    source: str
    unpack: str

    def is_there(self) -> bool:
        """Whether it is where it belongs."""
        return self.path.is_file() or (self.path.is_dir() and next(self.path.iterdir(), None) is not None)


@dataclass(frozen=True)
class Step:
    """A command, and the file that is there when it has been done."""

    title: str
    command: str
    words: list[str]
    result: Path


def inputs(datasets: Path, weights: Path) -> list[Input]:
    """Data of PSG and COCO, and FC-CLIP's weights."""
    coco, panoptic = datasets / "coco", f"{COCO_URL}/{ARCHIVES['panoptic'][0]}, 0.8 GB"
    needed = [
        Input(coco / part, f"{COCO_URL}/{ARCHIVES[part][0]}, {size} GB", f"unzip in {coco}")
        for part, size in (("train2017", 18), ("val2017", 0.8))
    ]
    for name in ("panoptic_train2017", "panoptic_val2017"):
        inner = f"unzip in {coco}, then annotations/{name}.zip, which is in it, too"
        needed.append(Input(coco / name, panoptic, inner))
    openpsg = "https://github.com/Jingkang50/OpenPSG, README, 'full dataset': psg.json, not psg_train_val.json"
    fcclip = "https://drive.google.com/file/d/1-91PIns86vyNaL3CzMmDD39zKGnPMtvj, 1.5 GB (FC-CLIP, ConvNeXt-Large, COCO)"
    return [*needed, Input(datasets / "psg" / "psg.json", openpsg, "as it is"), Input(weights, fcclip, "as it is")]


def plan(args: Namespace) -> list[Step]:
    """All commands, in order."""
    datasets, output = args.datasets.absolute(), args.output.absolute()
    recipe, overrides = args.config_file or RECIPES[args.num_gpus == 1], list(args.opts)
    psg, start, run = datasets / "psg" / "psg.json", output / "fcclip_init.safetensors", output / "train"
    final = run / "model_final.pth"
    config = ["--config-file", recipe]
    # As for published tables: all images outside the test split, which is looked at once, at the end.
    train = ["MODEL.WEIGHTS", str(start), "DATASETS.TRAIN", "('psg_trainval',)", "DATASETS.TEST", "()"]
    train += ["SOLVER.BEST_METRIC", "", "TEST.EVAL_PERIOD", "0", "OUTPUT_DIR", str(run)]
    check = ["--json", str(psg), "--image-root", str(datasets / "coco"), "--psg-names"]
    convert = ["--source", "fcclip", "--input", str(args.fcclip.absolute()), *config, "--output", str(start)]
    gpus = ["--num-gpus", str(args.num_gpus)]
    made = [
        Step("check the data", "data check", [*check, "--report", str(output / "check.json")], output / "check.json"),
        Step("index the annotation", "data index", ["--json", str(psg)], Path(f"{psg}.index")),
        Step("convert FC-CLIP's weights", "convert", [*convert, *(["--opts", *overrides] if overrides else [])], start),
        Step(
            "train; goes on where it was interrupted", "train", [*config, *gpus, "--resume", *overrides, *train], final
        ),
    ]
    for name, (what, task, settings) in EVALUATIONS.items():
        test = ["MODEL.WEIGHTS", str(final), "DATASETS.TRAIN", "('psg_trainval',)", "DATASETS.TEST", f"('{TEST}',)"]
        words = [*config, *gpus, "--eval-only", *overrides, *test, *settings, "OUTPUT_DIR", str(output / name)]
        made.append(Step(f"evaluate: {what}", "train", words, results_file(output, name, task)))
    push = ["--weights", str(final), "--results", str(output / "results.json"), "--output", str(output / "model")]
    return [*made, Step("write the model's folder, with its card", "push", push, output / "model" / "README.md")]


def results_file(output: Path, name: str, task: str) -> Path:
    """Where an evaluation of `EVALUATIONS` writes its numbers."""
    return output / name / "inference" / f"{task}_{TEST}.json"


class Journal:
    """The plan of an output folder, and how long each finished step took.

    Raises:
        ValueError: if the folder belongs to another plan.
    """

    def __init__(self, path: Path, planned: list[Step]):
        self.path, self.commands = path, {step.title: [step.command, *step.words] for step in planned}
        self.seconds: dict[str, float] = {}
        if path.is_file():
            content = json.loads(path.read_text())
            if content["commands"] != self.commands:
                old = content["commands"]
                title = next(t for t in (*self.commands, *old) if old.get(t) != self.commands.get(t))
                raise ValueError(f"{path}: made by other commands (first: {title!r}); choose another --output")
            self.seconds = content["seconds"]

    def has(self, step: Step) -> bool:
        """Whether a step's result stands."""
        return step.title in self.seconds and step.result.is_file()

    def add(self, step: Step, seconds: float) -> None:
        """Note that a step is finished."""
        self.seconds[step.title] = round(seconds, 1)
        self.write()

    def write(self) -> None:
        """Keep it, whole."""
        write_json(self.path, {"commands": self.commands, "seconds": self.seconds})


def run(args: Namespace) -> None:
    """Show the plan; without --dry-run, also carry out what is not done yet."""
    planned, needed = plan(args), inputs(args.datasets.absolute(), args.fcclip.absolute())
    journal = Journal(args.output / "reproduce.json", planned)
    missing = [each for each in needed if not each.is_there()]
    for each in missing:
        print(f"missing: {each.path}\n    from {each.source}\n    {each.unpack}")
    if any(each.path != args.fcclip.absolute() for each in missing):
        fetch = steps.shown("data download", ["--output", str(args.datasets.absolute())])
        print(f"all but FC-CLIP's weights can be fetched by: {fetch}")
    if args.dry_run:
        print(f"export DETECTRON2_DATASETS={args.datasets.absolute()}")
        for step in planned:
            print(f"# {step.title}{' (done)' if journal.has(step) else ''}\n{steps.shown(step.command, step.words)}")
        return
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(needed)} inputs are missing; see above where to get them")
    args.output.mkdir(parents=True, exist_ok=True)
    journal.write()
    env = {**os.environ, "DETECTRON2_DATASETS": str(args.datasets.absolute())}
    for step in planned:
        if step is planned[-1]:
            write_json(args.output / "results.json", collect(args, journal))
        if journal.has(step):
            print(f"=== {step.title}: done before", flush=True)
        else:
            journal.add(step, steps.run_step(step.title, step.command, step.words, env))
    print(f"\nresults.json and the folder model, whose card is README.md, are in {args.output}")


def collect(args: Namespace, journal: Journal) -> dict[str, Any]:
    """What was run, on what, and every number."""
    recipe = args.config_file or RECIPES[args.num_gpus == 1]
    cfg = build_cfg(recipe, list(args.opts))
    found = {
        name: json.loads(results_file(args.output, name, task).read_text())
        for name, (_, task, _) in EVALUATIONS.items()
    }
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    return {
        "dataset": TEST,
        "notes": [
            f"Recipe: {recipe}; overrides: {' '.join(args.opts) or 'none'}.",
            "Trained on PSG's images outside its test split, from FC-CLIP's COCO weights. Those have seen the masks, "
            "not the relations, of PSG's test images in COCO's train2017.",
            *(f"{name}: {what}." for name, (what, _, _) in EVALUATIONS.items()),
        ],
        "recipe": recipe,
        "overrides": list(args.opts),
        "backbone": f"{cfg.MODEL.CLIP.NAME}, {cfg.MODEL.CLIP.PRETRAINED or 'random weights'}",
        "machine": {"gpus": args.num_gpus, "device": gpu},
        "versions": {"usg_psg": __version__, "torch": torch.__version__, "engine": engine_name()},
        "seconds": journal.seconds,
        "evaluations": {
            name: {key: content[key] for key in ("task", "dataset", "counts", "metrics", "panoptic")}
            for name, content in found.items()
        },
    }
