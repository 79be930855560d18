"""Drawings of an evaluation: figures of its metrics, and its worst images, annotation beside prediction."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from ..data.register_psg import get_vocabulary
from ..evaluation import SGDetEvaluator
from ..evaluation.worst_images import WorstImages
from ..images import read_image
from .comparison import draw_comparison
from .plots import save_plots

logger = logging.getLogger(__name__)


def draw_evaluation(evaluator: SGDetEvaluator, plots: bool = True) -> None:
    """Draw an evaluation into its output_dir; for `SGDetEvaluator(..., draw=draw_evaluation)`.

    Its worst images, if it kept any, go to the folder "pictures_<data set>", and unless not plots, the figures of
    `save_plots` to "plots_<data set>".

    Raises:
        ValueError: if it has no output_dir.
    """
    if not evaluator.output_dir:
        raise ValueError("output_dir: expected a folder, as figures are to be drawn, got none")
    folder, name = Path(evaluator.output_dir), evaluator.dataset_name
    if plots and evaluator.results is not None:
        save_plots(folder / f"plots_{name}", evaluator.results, get_vocabulary(name).predicate_classes)
    if evaluator.worst is not None:
        paths = save_worst_images(folder / f"pictures_{name}", evaluator.worst, evaluator.images)
        logger.info("drawings of the %d worst images are in %s", len(paths), folder / f"pictures_{name}")


def save_worst_images(folder: Path | str, worst: WorstImages, records: Mapping[str, dict]) -> list[Path]:
    """Draw annotation beside prediction of each image that was kept, as PNG files named by rank and image.

    Those of an earlier evaluation are removed. An image whose photograph cannot be read is left out, with a warning.

    Args:
        records: dataset dicts by image_id.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9][0-9][0-9]*_*.png"):
        old.unlink()
    paths = []
    for n, kept in enumerate(worst.images, start=1):
        size = (kept.prediction.height, kept.prediction.width)
        try:
            image = read_image(records[kept.image_id]["file_name"], "RGB", size=size, image_id=kept.image_id)
        except (FileNotFoundError, ValueError) as error:
            logger.warning("no drawing of image %s: %s", kept.image_id, error)
            continue
        title = f"{kept.image_id}: recall {100 * kept.recall:.1f} at {worst.k}"
        path = folder / f"{n:03d}_{re.sub(r'[^A-Za-z0-9_-]+', '_', kept.image_id)}.png"
        draw_comparison(image, kept.annotation, kept.prediction, kept.shown, title).savefig(path)
        paths.append(path)
    return paths
