"""Several processes on one machine, over gloo."""

from __future__ import annotations

import json

import pytest

from ..programs import run_job


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("two")
    run_job(2, "-m", "tests.compat.jobs", folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_ranks(two):
    assert [each["rank"] for each in two] == [[0, 2, 0, True], [1, 2, 1, False]]


def test_objects_are_gathered(two):
    assert [each["all_gather"] for each in two] == [[{"rank": 0}, {"rank": 1}]] * 2
    assert [each["gather_to_1"] for each in two] == [[], ["x", "xx"]]
    assert two[0]["seed"] == two[1]["seed"]


def test_evaluation_sees_each_image_once(two):
    """5 images on 2 processes: 3 and 2, in order."""
    parts = [[[n, 2 * n] for n in (0, 1, 2)], [[n, 2 * n] for n in (3, 4)]]
    assert two[0]["results"] == {"task": {"parts": parts}}
    assert two[1]["results"] == {}
