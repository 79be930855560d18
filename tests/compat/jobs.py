"""Programs that tests start in processes of their own; each process writes what it saw as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import usg_psg  # noqa: F401  isort: skip
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import launch
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm


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


def double(batch: list[dict]) -> list[int]:
    return [each["n"] * 2 for each in batch]


def work(folder: str) -> None:
    """What two processes of one job see of each other."""
    torch.set_num_threads(1)
    rank = comm.get_rank()
    reduced = comm.reduce_dict({"b": torch.tensor(float(rank)), "a": torch.tensor(10.0 * (rank + 1))})
    summed = comm.reduce_dict({"a": torch.tensor(rank + 1.0)}, average=False)
    elements = [{"n": n} for n in range(5)]
    train = build_detection_train_loader(
        elements, mapper=lambda e: e["n"], total_batch_size=4, aspect_ratio_grouping=False
    )
    stream = iter(train)
    seen = {
        "rank": [rank, comm.get_world_size(), comm.get_local_rank(), comm.get_local_size(), comm.is_main_process()],
        "all_gather": comm.all_gather({"rank": rank}),
        "gather_to_1": comm.gather("x" * (rank + 1), dst=1),
        "seed": comm.shared_random_seed(),
        "reduced": {key: value.item() for key, value in reduced.items()} if rank == 0 else None,
        "summed": summed["a"].item() if rank == 0 else None,
        "batches": [next(stream) for _ in range(5)],
        "results": inference_on_dataset(double, build_detection_test_loader(elements, mapper=dict), Collect()),
    }
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(seen))
    comm.synchronize()  # Detectron2's launch does not wait for the others


def train_ddp(folder: str) -> None:
    """Three steps of a linear model; the processes see different data."""
    from detectron2.engine import SimpleTrainer, create_ddp_model

    torch.manual_seed(comm.get_rank())  # DDP has to make the models equal
    torch.set_num_threads(1)
    model = torch.nn.Linear(2, 1)
    if comm.get_rank() == 0:
        torch.nn.init.constant_(model.weight, 0.5)
        torch.nn.init.zeros_(model.bias)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = model

        def forward(self, batch):
            return {"loss": (self.linear(batch) - 1).square().mean()}

    data = torch.arange(12.0).reshape(3, 2, 2) / 10  # step, process, input
    mine = [data[step, comm.get_rank() : comm.get_rank() + 1] for step in range(3)]
    wrapped = create_ddp_model(Model())
    trainer = SimpleTrainer(wrapped, mine, torch.optim.SGD(wrapped.parameters(), lr=0.1))
    trainer.train(0, 3)
    seen = {"weight": model.weight.tolist(), "bias": model.bias.tolist()}
    if comm.is_main_process():
        seen["total_loss"] = [value for value, _ in trainer.storage.history("total_loss").values()]
    (Path(folder) / f"ddp{comm.get_rank()}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    launch(globals()[sys.argv[1]], 2, dist_url="auto", args=(sys.argv[2],))
