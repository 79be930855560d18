"""Two processes that train side by side: with `StepRunner`, and in DistributedDataParallel, step by step.

python -m tests.engine.averaging_job OUTPUT ACCUMULATION_STEPS WHAT        (under the variables of torchrun)

WHAT: "compare", "start" of a trainer, or a fault of the second process: "shapes", "unused", "nan".
"""

from __future__ import annotations

import usg_psg  # noqa: F401

# isort: split
import hashlib
import itertools
import json
import sys

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from usg_psg.config import build_cfg
from usg_psg.engine import GradientClipper, StepRunner, Trainer, adapt_to_machine, launch
from usg_psg.losses import loss_normalizers

from ..tiny import tiny_model
from .job import FixedBatches

STEPS = 5


def make_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = tiny_model(num_points=0, pilot_noise=0.0)  # losses on all pixels: nothing is drawn at random
    return model.cuda() if torch.cuda.is_available() else model


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), 1e-3, fused=True)


def runner_of(model: nn.Module, steps: int) -> StepRunner:
    settings = {"clipper": GradientClipper(), "accumulation_steps": steps}
    return StepRunner(model, FixedBatches(steps), optimizer_of(model), **settings)


def run_reference(model: nn.Module, accumulation_steps: int) -> list[float]:
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True).train()
    optimizer, loader = optimizer_of(model), iter(FixedBatches(accumulation_steps))
    totals = []
    for _ in range(STEPS):
        batches = list(itertools.islice(loader, accumulation_steps))
        counts = loss_normalizers(batches, model.device)
        optimizer.zero_grad()
        total = torch.zeros((), device=model.device)
        for number, batch in enumerate(batches):
            wrapped.require_backward_grad_sync = number + 1 == len(batches)
            loss = torch.stack(list(wrapped(batch, counts).values())).sum()
            loss.backward()
            total += loss.detach()
        GradientClipper()(list(model.parameters()))
        optimizer.step()
        torch.distributed.all_reduce(total)
        totals.append(total.item() / comm.get_world_size())
    return totals


def compare(accumulation_steps: int) -> dict:
    model = make_model(seed=1 + comm.get_rank())  # the first process's weights count
    runner, totals = runner_of(model, accumulation_steps), []
    with EventStorage() as storage:
        for runner.iter in range(STEPS):
            runner.run_step()
            totals.append(storage.latest()["total_loss"][0] if comm.is_main_process() else None)
            storage.iter += 1
    reference = make_model(seed=1)
    expected = run_reference(reference, accumulation_steps)
    buffers = {p.grad.untyped_storage().data_ptr() for p in model.parameters() if p.grad is not None}
    return {
        "totals": totals,
        "expected": expected,
        "gap": distance(model, reference),
        "moved": distance(model, make_model(seed=1)),
        "buffers": len(buffers),
    }


def start() -> dict:
    """Weights that a trainer and its moving average start from, where each process draws its own."""
    cfg = build_cfg("quickstart/usg_par_quickstart.yaml", ["SOLVER.EMA.ENABLED", "True", "SOLVER.IMS_PER_BATCH", "2"])
    adapt_to_machine(cfg)
    torch.manual_seed(comm.get_rank())
    trainer = Trainer(cfg)
    weights = {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}
    average = trainer.ema.state_dict()
    return {"weights": digest(weights), "average": digest({name: average[name] for name in weights})}


def digest(tensors: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(x.cpu().numpy().tobytes() for x in tensors.values())).hexdigest()


def distance(one: nn.Module, other: nn.Module) -> float:
    """Largest difference of a weight."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def fail(what: str) -> dict:
    """The error, which every process must meet in the same step, and how far the weights went until then."""
    model, is_second = make_model(seed=1), comm.get_rank() == 1
    if what == "shapes" and is_second:
        model.extra = nn.Linear(2, 2)
    if what == "unused":
        model.extra = nn.Linear(2, 2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    try:
        runner = runner_of(model, 1)
        if what == "nan" and is_second:
            model.class_head.register_forward_hook(lambda module, inputs, output: output * float("nan"))
        with EventStorage():
            runner.run_step()
    except (ValueError, RuntimeError, FloatingPointError) as error:
        unmoved = all(torch.equal(before[name], p) for name, p in model.named_parameters())
        return {"error": f"{type(error).__name__}: {error}", "unmoved": unmoved}
    return {"error": None}


def main(output: str, accumulation_steps: int, what: str) -> None:
    torch.set_num_threads(1)
    result = compare(accumulation_steps) if what == "compare" else start() if what == "start" else fail(what)
    with open(f"{output}{comm.get_rank()}.json", "w") as file:
        json.dump(result, file)


if __name__ == "__main__":
    launch(main, 1, args=(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
