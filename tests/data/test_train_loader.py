"""The order of training samples: complete, reproducible, independent of processes and workers, resumable."""

import itertools
import time

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from usg_psg.config import build_cfg
from usg_psg.data.train_loader import PSGTrainLoader, SampleStream, build_psg_train_loader, derived_seed, seeded

from ..processes import alive, children_of
from ..programs import start


def take(stream, count):
    return list(itertools.islice(stream, count))


def test_each_pass_shows_every_image_once_in_another_order():
    places = [place for batch in take(SampleStream(7, 2, seed=3), 7) for place in batch]
    assert [position for position, _ in places] == list(range(14))
    first, second = [i for _, i in places[:7]], [i for _, i in places[7:]]
    assert sorted(first) == sorted(second) == list(range(7)) and first != second


def test_processes_share_out_what_one_process_would_see():
    alone = take(SampleStream(10, 8, seed=1), 5)
    parts = [take(SampleStream(10, 2, seed=1, rank=r, world_size=2, steps_per_update=2), 10) for r in range(2)]
    for step, batch in enumerate(alone):
        assert batch == [p for part in parts for micro in part[2 * step : 2 * step + 2] for p in micro]


@pytest.mark.parametrize("factors", [None, [1.0, 2.5, 1.0, 3.25, 1.5]])
def test_a_stream_starts_anywhere(factors):
    alone = take(SampleStream(5, 2, seed=9, repeat_factors=factors), 12)
    assert take(SampleStream(5, 2, seed=9, repeat_factors=factors, start=14), 5) == alone[7:]


def test_repeat_factors_hold_on_average():
    stream = SampleStream(3, 1, seed=0, repeat_factors=[1.0, 2.0, 1.5])
    counts = np.bincount(np.concatenate([stream.order(epoch) for epoch in range(400)]), minlength=3) / 400
    assert counts[0] == 1 and counts[1] == 2 and abs(counts[2] - 1.5) < 0.1
    with pytest.raises(ValueError, match="expected 3 numbers"):
        SampleStream(3, 1, seed=0, repeat_factors=[1.0])


def draw(record):
    """A mapper whose output shows the image and the random numbers it was given."""
    return record["image_id"], np.random.rand(), torch.rand(1).item()


def refuse_odd(record):
    return None if record["image_id"] % 2 else record["image_id"]


RECORDS = [{"image_id": i} for i in range(6)]


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_depend_on_their_position_alone(workers):
    reference = take(PSGTrainLoader(RECORDS, draw, 3, seed=4), 6)
    np.random.seed(123)
    torch.manual_seed(123)
    loader = PSGTrainLoader(RECORDS, draw, 3, seed=0, num_workers=workers)
    loader.start_at(9, seed=4)
    assert take(loader, 3) == reference[3:]


def test_the_caller_s_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(derived_seed(1, 2, 3)):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected) and not torch.equal(inside, expected)


def test_an_unusable_image_is_replaced_the_same_way_each_time():
    first = take(PSGTrainLoader(RECORDS, refuse_odd, 4, seed=2), 5)
    assert {image for batch in first for image in batch} == {0, 2, 4}
    assert take(PSGTrainLoader(RECORDS, refuse_odd, 4, seed=2), 5) == first
    with pytest.raises(ValueError, match="no usable image among 100 drawn ones, the last of them"):
        next(iter(PSGTrainLoader(RECORDS, lambda record: None, 4, seed=2)))


@pytest.mark.parametrize(
    "opts, message",
    [
        (["SOLVER.IMS_PER_BATCH", "6", "SOLVER.ACCUMULATION_STEPS", "4"], "cannot be split evenly"),
        (["SOLVER.ACCUMULATION_STEPS", "0"], "cannot be split evenly"),
        (["DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"], "SAMPLER_TRAIN"),
    ],
)
def test_settings_that_do_not_fit(opts, message):
    with pytest.raises(ValueError, match=message):
        build_psg_train_loader(build_cfg("", opts), mapper=draw)


@pytest.mark.parametrize("filtered", [True, False])
def test_images_without_segments_are_left_out_if_asked_for(filtered, monkeypatch):
    records = [{"segments_info": [{}] * n, "relations": []} for n in (2, 0, 1)]
    DatasetCatalog.register("some_empty", lambda: records)
    cfg = build_cfg("", ["DATASETS.TRAIN", "('some_empty',)", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", str(filtered)])
    try:
        kept = build_psg_train_loader(cfg, mapper=draw).samples.dataset
    finally:
        DatasetCatalog.remove("some_empty")
    assert [len(record["segments_info"]) for record in kept] == ([2, 1] if filtered else [2, 0, 1])


LOADING = """
import time
from usg_psg.data import PSGTrainLoader
loader = PSGTrainLoader([{}] * 9, lambda _: {"text": "x" * 1_000_000}, 2, seed=0, num_workers=3)
batches = iter(loader)
next(batches)
print("loading", flush=True)
time.sleep(100)
"""


@pytest.mark.slow
def test_a_killed_run_leaves_no_loader_behind():
    """Batches that fill the pipes: a loader that waits to hand one over does not see the end by itself."""
    with start("-c", LOADING, stderr=None) as process:
        assert process.stdout.readline() == "loading\n"
        loaders = children_of(process.pid)
        process.kill()
    assert len(loaders) >= 3
    deadline = time.monotonic() + 60
    while alive(loaders) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(loaders)
