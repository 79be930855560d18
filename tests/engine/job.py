"""Work for processes of their own: gradients of one step, of a share of a fixed global batch.

python -m tests.engine.job OUTPUT ACCUMULATION_STEPS COMPILE        (alone, or under torchrun)

The step is made twice: with COMPILE "graphs" (here on their stand-in) it is recorded first and then only replayed.
"""

from __future__ import annotations

import usg_psg  # noqa: F401

# isort: split
import itertools
import sys

import torch
from detectron2.structures import Instances
from detectron2.utils import comm

from usg_psg.engine import GradientClipper, StepRunner, launch
from usg_psg.modeling.compile import compile_parts

from ..modeling.tape import TapeRecorder
from ..tiny import tiny_model

GLOBAL_BATCH = 4


def sample(index: int) -> dict:
    """An image with a number of objects and relations of its own."""
    generator = torch.Generator().manual_seed(index)
    count = 2 + index
    objects = Instances((64, 64))
    objects.gt_classes = torch.randint(0, 3, (count,), generator=generator)
    owner = torch.randint(0, count, (8, 8), generator=generator).repeat_interleave(8, 0).repeat_interleave(8, 1)
    objects.gt_masks = owner == torch.arange(count)[:, None, None]
    relations = [[0, 1, index % 2]] * (index > 0) + [[1, 0, 1]] * index  # none in the first, doubles in the others
    return {
        "image": torch.randint(0, 256, (3, 64, 64), generator=generator, dtype=torch.uint8),
        "instances": objects,
        "relations": torch.tensor(relations, dtype=torch.int64).reshape(-1, 3),
    }


class FixedBatches:
    """A loader of this process's share of one global batch."""

    seed = 0

    def __init__(self, accumulation_steps: int):
        share = GLOBAL_BATCH // comm.get_world_size()
        mine = [sample(comm.get_rank() * share + i) for i in range(share)]
        size = share // accumulation_steps
        self.batches = [mine[i : i + size] for i in range(0, share, size)]

    def __iter__(self):
        return itertools.cycle(self.batches)


def run(output: str, accumulation_steps: int, compile_mode: str) -> None:
    from detectron2.utils.events import EventStorage

    torch.manual_seed(1)
    torch.set_num_threads(1)
    model = tiny_model(num_points=0, pilot_noise=0.0)  # losses on all pixels: nothing is drawn at random
    compile_parts(model, compile_mode, recorder_type=TapeRecorder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    runner = StepRunner(
        model,
        FixedBatches(accumulation_steps),
        optimizer,
        clipper=GradientClipper("none"),
        accumulation_steps=accumulation_steps,
    )
    with EventStorage() as storage:
        runner.run_step()
        runner.run_step()
        if comm.is_main_process():
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            losses = {name: value for name, (value, _) in storage.latest().items() if "loss" in name}
            torch.save({"gradients": gradients, "losses": losses}, output)


if __name__ == "__main__":
    launch(run, 1, args=(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
