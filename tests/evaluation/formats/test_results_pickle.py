"""results.pkl of OpenPSG, HiLo and Pair-Net: read without running anything that the file names."""

from __future__ import annotations

import builtins
import os
import pickle
import pickletools
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from usg_psg.evaluation import read_predictions
from usg_psg.evaluation.records import images_with_relations

from ..files import core_results, make_dataset, read_results
from ..samples import NUM_PREDICATES

MODULE = "openpsg.models.relation_heads.approaches.relation_util"
MASKS = np.stack([np.broadcast_to(half, (8, 10)) for half in (np.arange(10) < 5, np.arange(10) >= 5)])


def make_class(monkeypatch, module: str = MODULE) -> type:
    """A class `Result` under OpenPSG's name for it, with attributes as theirs has them."""
    parts = module.split(".")
    for n in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:n]), types.ModuleType(".".join(parts[:n])))

    class Result:
        def __init__(self, **fields):
            self.__dict__.update({"bboxes": None, "rels": None, "img_shape": None, **fields})

    Result.__module__, Result.__qualname__ = module, "Result"
    sys.modules[module].Result = Result
    return Result


def result_fields(**changed) -> dict:
    """Two masks, the first over the second with predicate 2 of three, best first."""
    pan = np.zeros((8, 10), dtype=np.int64)
    fields = {
        "labels": np.array([3, 1]),
        "masks": MASKS,
        "rel_pair_idxes": np.array([[0, 1], [1, 0]], dtype=np.int32),
        "rel_dists": np.array([[0.9, 0.01, 0.02, 0.07], [0.1, 0.8, 0.1, 0.0]], dtype=np.float32),
        "refine_bboxes": np.array([[0, 0, 5, 8, 0.4], [5, 0, 10, 8, 0.9]], dtype=np.float32),
        "pan_results": pan,
        "formatted_masks": {"pan_results": pan},
    }
    return {**fields, **changed}


def dump(folder: Path, results: object, protocol: int = 2) -> Path:
    path = folder / "results.pkl"
    path.write_bytes(pickle.dumps(results, protocol))
    return path


def refusal(path: Path, image_ids: list[str]) -> str:
    with pytest.raises(ValueError) as error:
        list(read_predictions(path, image_ids))
    return str(error.value)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("module", [MODULE, MODULE.replace("openpsg", "pairnet")])
def test_results_are_read_as_their_evaluator_reads_them(protocol, module, monkeypatch, tmp_path):
    """mmcv writes protocol 2; a predicate is the largest column but the first, and labels count from 1."""
    result = make_class(monkeypatch, module)
    other = result_fields(masks=np.asfortranarray(MASKS).astype(np.int64), labels=np.array([2, 133]))
    path = dump(tmp_path, [result(**result_fields()), result(**other)], protocol)
    (first_id, first), (second_id, second) = read_predictions(path, ["7", "8"])
    assert (first_id, second_id) == ("7", "8")
    assert first.labels.tolist() == [2, 0] and second.labels.tolist() == [1, 132]
    assert first.triplets.tolist() == [[0, 1, 2], [1, 0, 0]]
    assert first.mask_scores == pytest.approx([0.4, 0.9])
    np.testing.assert_array_equal(first.masks, MASKS)
    np.testing.assert_array_equal(second.decoded_masks(), MASKS)


def test_figures_equal_those_of_the_same_predictions(monkeypatch, tmp_path):
    """Also of a pickle of a list longer than a batch of the pickler, which is 1,000 items."""
    result = make_class(monkeypatch)
    _, samples, records = make_dataset(tmp_path)
    results = []
    for image_id in images_with_relations(records):
        prediction = samples[image_id][1]
        rows = prediction.triplets
        dists = np.eye(NUM_PREDICATES + 1)[rows[:, 2] + 1]
        boxes = np.zeros((len(prediction.labels), 5))
        fields = {"labels": prediction.labels + 1, "masks": prediction.masks, "refine_bboxes": boxes}
        results.append(result(rel_pair_idxes=rows[:, :2], rel_dists=dists, **fields))
    expected, found = core_results(samples), read_results(dump(tmp_path, results), records)
    for key in ("openpsg/R@50", "openpsg/mR@20", "openpsg_strict/NgR@50", "openpsg/PR@100"):
        assert found.metrics[key] == expected.metrics[key] > 0
    assert found.counts["images"] == 6, "the file has no entry for images without relations"
    many = [str(n) for n in range(1002)]
    path = dump(tmp_path, [result(**result_fields()) for _ in many])
    assert [image_id for image_id, _ in read_predictions(path, many)] == many


def test_one_result_is_in_memory_at_a_time(monkeypatch, tmp_path):
    """Such files hold tens of gigabytes."""
    import tracemalloc

    result = make_class(monkeypatch)
    masks = np.ones((10, 100, 500), dtype=bool)
    fields = {"labels": np.ones(10, int), "masks": masks, "refine_bboxes": np.ones((10, 5))}
    empty = {"rel_pair_idxes": np.zeros((0, 2), int), "rel_dists": np.zeros((0, 4))}
    path = dump(tmp_path, [result(**{**fields, **empty, "masks": masks.copy()}) for _ in range(20)])
    tracemalloc.start()
    for _ in read_predictions(path, [str(n) for n in range(20)]):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * masks.nbytes < path.stat().st_size


def test_masks_in_a_list_and_an_image_without_prediction(monkeypatch, tmp_path):
    result = make_class(monkeypatch)
    listed = result(**result_fields(masks=list(MASKS), refine_bboxes=np.zeros((2, 5))))
    nothing = result(refine_bboxes=None, labels=[np.array([], dtype=np.int64)])
    none = np.zeros((0, 2), np.int64)
    silent = result(**result_fields(rel_pair_idxes=none, rel_dists=np.zeros((0, 4))))
    (first_id, first), (last_id, last) = read_predictions(dump(tmp_path, [listed, nothing, silent]), ["5", "6", "7"])
    assert (first_id, last_id) == ("5", "7")
    np.testing.assert_array_equal(first.masks, MASKS)
    assert first.mask_scores is None, "zeros are placeholders, as Pair-Net writes them"
    assert last.triplets.shape == (0, 3) and len(last.labels) == 2


def test_torch_tensors_are_passed_over_where_they_are_not_needed(monkeypatch, tmp_path):
    """Two-stage models leave them in the results of images without boxes."""
    import torch

    result = make_class(monkeypatch)
    nothing = result(refine_bboxes=None, bboxes=[torch.zeros(0, 4)], labels=[torch.zeros(0)])
    assert list(read_predictions(dump(tmp_path, [nothing]), ["7"])) == []
    path = dump(tmp_path, [result(**result_fields(masks=torch.from_numpy(MASKS.copy())))])
    assert refusal(path, ["7"]).startswith(f"{path}, image '7': masks: expected an array of pixels, got a torch tensor")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": np.array([0, 1])}, "labels: expected classes from 1, got 0"),
        ({"labels": np.array([1.0, 2.0])}, "labels: expected 1 dimensions of numbers, got float64"),
        ({"labels": None}, "labels: expected a numpy array, got None"),
        ({"masks": None}, "masks: expected an array of pixels, got None; results of boxes cannot be scored"),
        ({"masks": MASKS[:1]}, "image '7': masks: expected 2 as there are labels, got 1"),
        ({"masks": [MASKS[0], MASKS[1, :3]]}, "masks: expected one size, that of the image, got [(3, 10), (8, 10)]"),
        ({"rel_pair_idxes": np.zeros((2, 3), int)}, "rel_pair_idxes: expected rows of 2, got shape (2, 3)"),
        (
            {"rel_pair_idxes": np.array([[0, 2], [0, 1]])},
            "image '7': triplets: expected subject and object from 0 to 1",
        ),
        ({"rel_dists": np.zeros((1, 4))}, "rel_dists: expected a row for each of the 2 pairs"),
        ({"rel_dists": np.full((2, 4), np.nan)}, "rel_dists: expected probabilities, got NaN"),
    ],
)
def test_a_value_that_does_not_fit_is_named(changed, message, monkeypatch, tmp_path):
    path = dump(tmp_path, [make_class(monkeypatch)(**result_fields(**changed))])
    assert refusal(path, ["7"]).startswith(f"{path}, image '7': {message}")


def test_another_number_of_results_is_refused(monkeypatch, tmp_path):
    result = make_class(monkeypatch)
    path = dump(tmp_path, [result(**result_fields()), result(**result_fields())])
    expected = "annotated images with relations; there"
    assert refusal(path, ["7"]) == f"{path}: expected one result for each of the 1 {expected} are more"
    where = f"{path}, image '9': expected one result for each of the 3 {expected} is none for this image"
    assert refusal(path, ["7", "8", "9"]) == where


class Calls:
    """An object whose pickle names a function and its arguments."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch {}",), "posix.system"),
        (builtins.eval, ("open('{}', 'w')",), "eval"),
        (builtins.getattr, ("x", "{}"), "getattr"),
        (np.memmap, ("{}", "uint8", "w+", 0, (5,)), "memmap"),
        (np.load, ("{}", None, True), "load"),
        (np.dtype, ("O",), "expected arrays of numbers, got one of type O"),
        (np.dtype, ("V8",), "expected arrays of numbers, got one of type V8"),
    ],
)
def test_hostile_files_run_nothing(protocol, function, arguments, named, monkeypatch, tmp_path):
    trap = tmp_path / "trap"
    filled = [x.format(trap) if isinstance(x, str) else x for x in arguments]
    hostile = Calls(function, *filled)
    for results in ([hostile], [make_class(monkeypatch)(**result_fields(masks=hostile))], hostile):
        path = dump(tmp_path, results, protocol)
        message = refusal(path, ["7"])
        assert message.startswith(f"{path}, image '7': ") and named in message
    assert not trap.exists()


def test_arrays_of_objects_and_of_records_are_refused(monkeypatch, tmp_path):
    result = make_class(monkeypatch)
    for value, message in (
        (np.array([None, "x"], dtype=object), "got one of type O8"),
        (np.array([Calls(os.getcwd)], dtype=object), "got one of type O8"),
        (np.zeros(2, dtype=[("a", "i4")]), "got one of type V4"),
        (np.array(["text"]), "got one of type U4"),
    ):
        path = dump(tmp_path, [result(**result_fields(labels=value))])
        assert message in refusal(path, ["7"])


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02" + b"]" * 110_000 + b".",
        b"\x80\x02" + b"(" * 110_000 + b".",
        b"\x80\x02)" + b"\x85" * 110_000 + b".",
        b"\x80\x02]" + b"]q\x01h\x01a" * 10 + b"a" * 20 + b".",
        b"\x80\x02}(" + b")" + b"\x85" * 110_000 + b"K\x01u.",
        b"\x80\x02].",
        b"\x80\x02K\x01.",
        b"\x80\x02a.",
        b"\x80\x02h\x05.",
        b"\x80\x02R.",
        b"\x80\x02]K\x01b.",
        b"\x80\x02" + b"\x8e" + b"\xff" * 8 + b"x",
        b"\x80\x02X\xff\xff\xff\x7fx",
        b"\x80\x02",
        b"\x80\x02cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02P1\n.",
    ],
    ids=lambda code: repr(code[:12]) + str(len(code)),
)
def test_damaged_and_deeply_nested_files_end_in_one_line(code, tmp_path):
    path = tmp_path / "results.pkl"
    path.write_bytes(code)
    message = refusal(path, ["7"])
    assert message.startswith(f"{path}, image '7': ") and "\n" not in message and len(message) < 400


@pytest.mark.parametrize("wrap", [tuple, lambda x: {"results": x[0]}, lambda x: [x[:1], x[1]], lambda x: x[0]])
def test_other_structures_than_a_list_of_results(wrap, monkeypatch, tmp_path):
    result = make_class(monkeypatch)
    path = dump(tmp_path, wrap([result(**result_fields()), result(**result_fields())]))
    assert "expected a list of results" in refusal(path, ["7", "8"]) or "there is none" in refusal(path, ["7", "8"])


def test_cut_off_anywhere_it_is_refused(monkeypatch, tmp_path):
    path = dump(tmp_path, [make_class(monkeypatch)(**result_fields())])
    whole = path.read_bytes()
    ends = [position for _, _, position in pickletools.genops(whole)]
    for end in [2, *ends[5::9], len(whole) - 1]:
        path.write_bytes(whole[:end])
        assert refusal(path, ["7"]).startswith(f"{path}")


def test_an_ordered_dict_costs_nothing(monkeypatch, tmp_path):
    result = make_class(monkeypatch)
    path = dump(tmp_path, [result(**result_fields(add_losses=OrderedDict(a=1), samples=np.float32(2), attrs=b"x"))])
    assert len(list(read_predictions(path, ["7"]))) == 1
