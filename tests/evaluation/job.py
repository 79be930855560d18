"""Two processes evaluate one data set, under torchrun: -m tests.evaluation.job FOLDER; writes merged.json there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

import usg_psg  # noqa: F401  isort: skip
from detectron2.utils import comm

from usg_psg.engine import launch
from usg_psg.evaluation import SGDetEvaluator

from .dataset import model_output, register, write_dataset
from .samples import random_training


def work(folder: str) -> None:
    torch.set_num_threads(1)
    rank = comm.get_rank()
    _, samples = write_dataset(Path(folder) / f"rank{rank}", 7)
    register("job", Path(folder) / f"rank{rank}" / "psg" / "psg.json")
    evaluator = SGDetEvaluator("job", folder, export="json", training=random_training(np.random.default_rng(0)))
    ids = list(samples)
    for image_id in ids[:5] if rank == 0 else ids[5:]:
        evaluator.process([{"image_id": image_id}], [model_output(samples[image_id][1])])
    results = evaluator.evaluate()
    assert (results is None) == (rank == 1)
    if rank == 0:
        (Path(folder) / "merged.json").write_text(json.dumps(results))


if __name__ == "__main__":
    launch(work, 2, args=(sys.argv[1],))
