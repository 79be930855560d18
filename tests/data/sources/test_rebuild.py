"""psg.json from boxes, relations and COCO's segments."""

import copy

import numpy as np
import pytest
from scipy.ndimage import find_objects

from usg_psg.data import PSG_VOCABULARY, decode_panoptic_png, read_psg_json
from usg_psg.data.sources.hub import RowReader
from usg_psg.data.sources.rebuild import match_segments, rebuild

from .hosts import hub_rows, psg_content

NAMES = (
    {i + 1: name for i, name in enumerate(PSG_VOCABULARY.object_classes)},
    {i + 1: name for i, name in enumerate(PSG_VOCABULARY.predicate_classes)},
)
BOXES = np.array([[0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 20, 20], [40, 0, 20, 20]], dtype=float)


def match(classes, boxes, areas, segment_classes, segment_boxes, segment_areas):
    found, ambiguous = match_segments(
        *map(np.array, (classes, boxes, areas, segment_classes)), segment_boxes, np.array(segment_areas)
    )
    return found.tolist(), ambiguous.tolist()


def test_class_and_box_tell():
    order = [3, 1, 0, 2]
    found = match([5, 5, 5, 6], BOXES, [1] * 4, np.array([5, 5, 5, 6])[order], BOXES[order], [1] * 4)
    assert found == ([2, 1, 3, 0], [False] * 4)


def test_same_box_and_class_is_ambiguous_unless_areas_differ():
    twins = match([5, 5], BOXES[2:], [9, 9], [5, 5], BOXES[2:], [9, 9])
    assert sorted(twins[0]) == [0, 1] and twins[1] == [True, True]
    assert match([5, 5], BOXES[2:], [9, 8], [5, 5], BOXES[2:], [8, 9]) == ([1, 0], [False, False])


def test_one_segment_is_one_object():
    assert match([5, 5], BOXES[2:], [9, 9], [5], BOXES[2:3], [9])[1] == [True, False]
    near = BOXES[:2] + [0, 0, 1, 1]
    assert match([5, 5], near, [0, 0], [5, 5], BOXES[:2], [1, 1]) == ([0, 1], [False, False])
    assert match([5, 5], BOXES[:2] + [6, 0, 0, 0], [0, 0], [5, 5], BOXES[:2], [1, 1])[0] == [-1, -1]
    assert match([], np.zeros((0, 4)), [], [5], BOXES[:1], [1]) == ([], [])


def test_the_best_sum_not_the_best_pair():
    # Both objects fit the first segment; only the first one fits the second.
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 7]], dtype=float)
    segments = np.array([[0, 0, 10, 9.9], [0, 0, 10, 15]], dtype=float)
    assert match([5, 5], boxes, [0, 0], [5, 5], segments, [1, 1])[0] == [1, 0]


def rows_and_coco(images=6):
    content, _ = psg_content(images)
    rows = [("train", row) for row in hub_rows(content, {}, content["data"])]
    coco = [{**copy.deepcopy(record), "relations": []} for record in content["data"]]
    return rows, coco, content["data"]


def test_every_image_has_a_status():
    rows, coco, records = rows_and_coco(6)
    rows[1][1]["objects"][1]["bbox"] = [0.0, 0.0, 2.0, 2.0]  # the second person, of one relation
    del coco[2]
    rows[3][1]["height"] += 1
    for key in ("segments_info", "annotations"):  # the first person twice
        coco[3][key].append({**coco[3][key][0], **({"id": 77} if key == "segments_info" else {})})
    rows += [("test", rows[0][1])]
    found, test_ids, report = rebuild(rows, NAMES, coco, PSG_VOCABULARY)
    assert report.images == {
        "matched": [records[0]["image_id"], records[5]["image_id"]],
        "ambiguous": [records[4]["image_id"]],
        "incomplete": [records[1]["image_id"]],
        "missing": [records[2]["image_id"], records[3]["image_id"]],
        "repeated": [records[0]["image_id"]],
    }
    assert found[0] == records[0] and test_ids == [records[0]["image_id"]]
    assert [s["id"] for s in found[1]["segments_info"]] == [records[1]["segments_info"][i]["id"] for i in (0, 2, 3)]
    assert found[1]["relations"] == [[0, 2, 0], [0, 2, 14]]
    assert report.counts["relations_left_out"] == 1 + 2 * 3 and report.counts["objects_left_out"] == 1 + 2 * 4
    assert (
        len(report.details) == 5 and "objects[1] (person)" in report.details[f"{records[1]['image_id']} (incomplete)"]
    )
    assert report.to_dict()["counts"]["images"]["matched"] == 2


@pytest.mark.parametrize(
    ("key", "field", "value", "message"),
    [
        ("objects", "category_id", 500, r"image_id 9, objects\[0\]\.category_id: 500 is none of the 133"),
        ("relations", "predicate_id", 57, r"relations\[0\]\.predicate_id: 57 \('flies'\) is none of the 56"),
        ("relations", "object_id", 1, r"image_id 9, relations\[0\]: it relates no object of the image"),
    ],
)
def test_unknown_ids_are_named(key, field, value, message):
    rows, coco, _ = rows_and_coco(1)
    rows[0][1][key][0][field] = value
    with pytest.raises(ValueError, match=message):
        rebuild(rows, (NAMES[0], {**NAMES[1], 57: "flies"}), coco, PSG_VOCABULARY)


def test_row_reader_goes_by_name():
    rows, _, records = rows_and_coco(1)
    reader = RowReader(NAMES, PSG_VOCABULARY)
    assert reader.classes(rows[0][1]).tolist() == [s["category_id"] for s in records[0]["segments_info"]]
    assert reader.relations(rows[0][1]).tolist() == records[0]["relations"]


def boxes_of_png(record, root):
    """The record with boxes from its PNG, as COCO made them, and its segments in another order."""
    ids, record = decode_panoptic_png(str(root / record["pan_seg_file_name"])), copy.deepcopy(record)
    position = np.zeros(ids.max() + 1, dtype=np.uint8)
    position[[segment["id"] for segment in record["segments_info"]]] = np.arange(1, len(record["segments_info"]) + 1)
    for annotation, (rows, columns) in zip(record["annotations"], find_objects(position[ids]), strict=True):
        annotation["bbox"] = [columns.start, rows.start, columns.stop, rows.stop]
    order = np.random.default_rng(int(record["image_id"])).permutation(len(record["segments_info"]))
    for key in ("segments_info", "annotations"):
        record[key] = [record[key][i] for i in order]
    return {**record, "relations": []}


def test_photographs(psg_photos):
    """Rebuilt from boxes and relations, the file of real COCO photographs is the one that was taken apart."""
    records = read_psg_json(psg_photos / "psg" / "psg.json").records
    coco = [boxes_of_png(record, psg_photos / "coco") for record in records]
    found, _, report = rebuild([("train", row) for row in hub_rows({}, {}, records)], NAMES, coco, PSG_VOCABULARY)
    assert found == records
    assert report.images["matched"] == [record["image_id"] for record in records]
