"""Several processes take the steps that DistributedDataParallel would, and fail together."""

import json
import re

import pytest
import torch
from torch import nn

from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine.averaging import GradientAverage

from ..programs import run_job

two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def job(tmp_path, what, accumulation_steps=1, on_gpus=False):
    """What each of two processes found."""
    env = {"CUDA_VISIBLE_DEVICES": "0,1"} if on_gpus else {}
    run_job(2, "-m", "tests.engine.averaging_job", tmp_path / "rank", accumulation_steps, what, env=env, fresh=on_gpus)
    return [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("on_gpus", [False, pytest.param(True, marks=two_gpus)])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_losses_and_weights_are_those_of_distributed_data_parallel(accumulation_steps, on_gpus, tmp_path):
    first, second = job(tmp_path, "compare", accumulation_steps, on_gpus)
    assert first["moved"] > 1e-4 and first["buffers"] == second["buffers"] == 1
    assert first["moved"] == second["moved"]
    if on_gpus:  # sums of atomic operations vary
        assert first["totals"] == pytest.approx(first["expected"], rel=1e-3)
    else:
        assert first["totals"] == pytest.approx(first["expected"], rel=1e-6)
        assert first["gap"] == second["gap"] == 0, "to the last bit"


def test_all_processes_start_from_the_first_ones_weights_and_so_do_their_moving_averages(tmp_path, monkeypatch):
    generate_psg_shapes(tmp_path / "psg_shapes", num_train=4, num_val=1, size=(64, 64), preset="easy", seed=0)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    first, second = job(tmp_path, "start")
    assert first == second and first["weights"] == first["average"]


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("shapes", r"ValueError: the model of process 1 has extra\.weight .*\(2, 2\).*, that of process 0 has nothing"),
        ("unused", r"RuntimeError: no gradient reached extra\.weight, extra\.bias, 2 parameters in all"),
        ("nan", "FloatingPointError: the loss is not finite at iteration 0: loss_"),
    ],
)
def test_a_fault_ends_all_processes_before_the_update(what, error, tmp_path):
    for found in job(tmp_path, what):
        assert re.match(error, found["error"]), found
        assert found["unmoved"]


@pytest.fixture
def group_of_one(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", world_size=1, rank=0)
    yield
    torch.distributed.destroy_process_group()


def test_gradients_keep_values_and_layout_in_one_buffer(group_of_one):
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1), nn.BatchNorm2d(2), nn.Linear(7, 3, dtype=torch.float64)
    )
    model[0].to(memory_format=torch.channels_last)
    model[0].bias.requires_grad_(False)
    average = GradientAverage(model)
    x = torch.randn(2, 3, 4, 9)
    for step in range(2):
        model.zero_grad()
        model[3](model[:3](x * (step + 1)).double()).square().sum().backward()
        expected = {name: (p.grad.clone(), p.grad.stride()) for name, p in model.named_parameters() if p.requires_grad}
        average()
        assert model[0].bias.grad is None and model[0].weight.stride() != model[0].weight.contiguous().stride()
        places = set()
        for name, p in model.named_parameters():
            if p.requires_grad:
                assert torch.equal(p.grad, expected[name][0]) and p.grad.stride() == expected[name][1]
                places.add((p.dtype, p.grad.untyped_storage().data_ptr()))
        assert len(places) == 2, "one for each dtype"
