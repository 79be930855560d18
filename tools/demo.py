#!/usr/bin/env python
"""Parse images: for each an overlay of masks and labels, a drawing of the scene graph, and JSON.

    python tools/demo.py --config-file configs/quickstart/usg_par_quickstart.yaml --input photo.jpg folder/ \\
        --output output/demo --opts MODEL.WEIGHTS output/quickstart/model_final.pth
"""

from __future__ import annotations

import usg_psg  # noqa: F401  selects the engine, so it comes before detectron2

# isort: split
import argparse
import glob
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from detectron2.utils.logger import setup_logger
from PIL import Image
from tqdm import tqdm

from usg_psg.config import build_cfg
from usg_psg.data import read_image
from usg_psg.engine import adapt_to_machine
from usg_psg.predictor import SceneGraph, SceneGraphPredictor
from usg_psg.visualization import draw_graph, draw_overlay

logger = logging.getLogger("usg_psg.demo")
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def find_images(inputs: list[str]) -> list[Path]:
    """Files, images of folders, and what glob patterns match, each once, in order.

    Raises:
        ValueError: if one of them gives nothing.
    """
    found: dict[Path, None] = {}
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES)
        elif path.is_file():
            files = [path]
        else:
            files = sorted(Path(f) for f in glob.glob(name, recursive=True))
        if not files:
            raise ValueError(f"--input {name}: no such file, no image in the folder, or no match of the pattern")
        found.update(dict.fromkeys(files))
    return list(found)


def unique_stems(paths: list[Path]) -> Iterator[tuple[Path, str]]:
    """A file name for each path; those that share a stem get the folder's name or a number in front."""
    used: set[str] = set()
    for path in paths:
        stem, number = path.stem, 1
        while stem in used:
            number += 1
            stem = f"{path.stem}_{number}"
        used.add(stem)
        yield path, stem


def write_results(image_path: Path, stem: str, graph: SceneGraph, image, output: Path, top_k: int, threshold: float):
    """The three files of one image."""
    shown = graph.constrained().top(top_k, threshold)
    Image.fromarray(draw_overlay(image, shown)).save(output / f"{stem}_overlay.png")
    draw_graph(shown).savefig(output / f"{stem}_graph.png", bbox_inches="tight")
    (output / f"{stem}.json").write_text(graph.to_json(), encoding="utf-8")
    tqdm.write(f"{image_path}:")
    for r in shown.relations:
        subject, object_ = shown.objects[r.subject].name, shown.objects[r.object].name
        tqdm.write(f"  {r.score:.3f}  {subject} - {r.predicate} - {object_}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="recipe of the model")
    parser.add_argument("--input", nargs="+", required=True, help="images, folders, glob patterns")
    parser.add_argument("--output", required=True, help="folder for the results")
    parser.add_argument("--top-k", type=int, default=10, help="relations in the pictures (the JSON has all)")
    parser.add_argument("--score-threshold", type=float, default=0.02, help="least score in the pictures")
    parser.add_argument("--vocabulary", metavar="FILE", help="names to look for, see docs/open_vocabulary.md")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE overrides")
    arguments = parser.parse_args()
    setup_logger(name="usg_psg")
    try:
        paths = find_images(arguments.input)
        cfg = build_cfg(arguments.config_file, arguments.opts)
        if arguments.vocabulary:
            cfg.MODEL.USG.VOCABULARY = arguments.vocabulary
        adapt_to_machine(cfg)
        predictor = SceneGraphPredictor(cfg)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    failed = []
    for path, stem in tqdm(list(unique_stems(paths)), unit="image"):
        try:
            image = read_image(str(path), "RGB")
        except (ValueError, OSError) as error:
            failed.append(path)
            tqdm.write(f"{path}: left out: {error}", file=sys.stderr)
            continue
        write_results(path, stem, predictor(image), image, output, arguments.top_k, arguments.score_threshold)
    print(f"{len(paths) - len(failed)} of {len(paths)} images parsed: {output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
