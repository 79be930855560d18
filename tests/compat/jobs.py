"""What two processes of one job see of each other; each writes it as JSON: python -m tests.compat.jobs FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import usg_psg  # noqa: F401  isort: skip
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm

from usg_psg.engine import launch


class Collect(DatasetEvaluator):
    """Gathers which image which process saw."""

    def reset(self) -> None:
        self.seen = []

    def process(self, inputs: list[dict], outputs: list) -> None:
        self.seen += [(each["n"], output) for each, output in zip(inputs, outputs, strict=True)]

    def evaluate(self) -> dict | None:
        comm.synchronize()
        parts = comm.gather(self.seen, dst=0)
        return {"task": {"parts": parts}} if comm.is_main_process() else None


class Double(torch.nn.Module):
    def forward(self, batch: list[dict]) -> list[int]:
        return [each["n"] * 2 for each in batch]


def work(folder: str) -> None:
    torch.set_num_threads(1)
    rank = comm.get_rank()
    elements = [{"n": n} for n in range(5)]
    seen = {
        "rank": [rank, comm.get_world_size(), comm.get_local_rank(), comm.is_main_process()],
        "all_gather": comm.all_gather({"rank": rank}),
        "gather_to_1": comm.gather("x" * (rank + 1), dst=1),
        "seed": comm.shared_random_seed(),
        "results": inference_on_dataset(Double(), build_detection_test_loader(elements, mapper=dict), Collect()),
    }
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    launch(work, 2, args=(sys.argv[1],))
