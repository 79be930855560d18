"""Several processes on one machine, over gloo."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from detectron2.engine import launch

from usg_psg.compat import engine_name

from .engines import run_python

ENGINE = engine_name()
bundled_only = pytest.mark.skipif(ENGINE != "bundled", reason="Detectron2's create_ddp_model needs GPUs")


def run_job(name: str, folder: Path) -> None:
    run_python("-m", "tests.compat.jobs", name, str(folder), engine=ENGINE)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("two")
    run_job("work", folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_ranks(two):
    assert [each["rank"] for each in two] == [[0, 2, 0, 2, True], [1, 2, 1, 2, False]]


def test_objects_are_gathered(two):
    assert [each["all_gather"] for each in two] == [[{"rank": 0}, {"rank": 1}]] * 2
    assert [each["gather_to_1"] for each in two] == [[], ["x", "xx"]]
    assert two[0]["seed"] == two[1]["seed"]


def test_scalars_are_reduced(two):
    assert two[0]["reduced"] == {"a": 15.0, "b": 0.5}
    assert two[0]["summed"] == 3.0


def test_training_data_is_shared_out(two):
    """Both processes take half of every batch; five batches of 2 x 2 hold each of 5 images four times."""
    assert all(len(batch) == 2 for each in two for batch in each["batches"])
    merged = sorted(n for each in two for batch in each["batches"] for n in batch)
    assert merged == sorted(list(range(5)) * 4)


def test_evaluation_sees_each_image_once(two):
    """5 images on 2 processes: 3 and 2, in order."""
    parts = [[[n, 2 * n] for n in (0, 1, 2)], [[n, 2 * n] for n in (3, 4)]]
    assert two[0]["results"] == {"task": {"parts": parts}}
    assert two[1]["results"] == {}


@bundled_only
def test_ddp_equals_one_process(tmp_path):
    """Two processes with half of the batch each train the same model as one with the whole batch."""
    run_job("train_ddp", tmp_path)
    seen = [json.loads((tmp_path / f"ddp{rank}.json").read_text()) for rank in range(2)]
    model = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(model.weight, 0.5)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for batch in torch.arange(12.0).reshape(3, 2, 2) / 10:
        optimizer.zero_grad()
        loss = (model(batch) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for each in seen:
        assert torch.allclose(torch.tensor(each["weight"]), model.weight, atol=1e-6)
        assert torch.allclose(torch.tensor(each["bias"]), model.bias, atol=1e-6)
    assert seen[0]["total_loss"] == pytest.approx(losses, abs=1e-5)


@bundled_only
def test_several_machines_need_detectron2():
    with pytest.raises(RuntimeError, match="pip install --no-build-isolation 'git"):
        launch(print, 1, num_machines=2, dist_url="tcp://127.0.0.1:1")


def test_one_process_runs_here():
    seen = []
    launch(seen.append, 1, args=("here",), timeout=timedelta(minutes=1))
    assert seen == ["here"]
