"""Run lengths of masks: those that do not fill their mask are refused, whatever their form."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from usg_psg.masks import (
    area,
    check_rles,
    decode_masks,
    encode_mask,
    encode_masks,
    encode_segments,
    label_map_from_masks,
    resize_rle,
)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
def test_whole_masks_are_taken_in_every_form(density):
    masks = np.random.default_rng(0).random((5, 90, 70)) < density
    texts = encode_masks(masks)
    runs = [np.diff(np.flatnonzero(np.diff(m.T.ravel().astype(int), prepend=1 - m[0, 0], append=2))) for m in masks]
    lists = [{"size": [90, 70], "counts": [0] * int(m[0, 0]) + r.tolist()} for m, r in zip(masks, runs, strict=True)]
    for form in (texts, lists, [{**rle, "counts": rle["counts"].encode()} for rle in texts]):
        np.testing.assert_array_equal(decode_masks(form), masks)


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
@pytest.mark.parametrize("size", [(37, 29), (1, 50), (50, 1), (1, 1), (0, 5), (5, 0)], ids=str)
@pytest.mark.parametrize("order", "CF")
def test_segments_of_a_map_in_any_order(size, kind, order):
    label_map = np.random.default_rng(0).integers(0, 6, size).astype(kind, order=order)
    label_map[label_map == 4] = 0
    label_map[-1:, -1:] = 5
    ids = [5, 2, 4, 2, 1, 0, 200]  # two of which have no pixel
    assert encode_segments(label_map, ids) == [encode_mask(label_map == i) for i in ids]
    whole = np.full_like(label_map, 200)
    assert encode_segments(whole, []) == []
    assert encode_segments(whole, [1, 200]) == [encode_mask(whole == i) for i in (1, 200)]


def test_run_lengths_are_read_as_coco_reads_them():
    """Long and short runs in turns, so that steps are negative and take several digits."""
    counts = np.random.default_rng(1).choice([0, 1, 15, 16, 31, 32, 1000, 40_000], 60).tolist()
    rle = {"size": [1, sum(counts)], "counts": counts}
    text = coco_mask.frPyObjects(rle, *rle["size"])["counts"].decode()
    check_rles([{"size": rle["size"], "counts": text}])
    with pytest.raises(ValueError, match=f"add up to 2 x {sum(counts)} pixels, got {sum(counts)}"):
        check_rles([{"size": [2, sum(counts)], "counts": text}])


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [96, 128], "counts": "01"}, "masks[1]: expected run lengths that add up to 96 x 128 pixels, got 1"),
        ({"size": [4, 4], "counts": ""}, "masks[1]: expected run lengths that add up to 4 x 4 pixels, got 0"),
        ({"size": [4, 4], "counts": [10]}, "masks[1]: expected run lengths that add up to 4 x 4 pixels, got 10"),
        ({"size": [4, 4], "counts": "@P1"}, "masks[1]: expected no negative run length, got -16"),
        ({"size": [4, 4], "counts": [20, -4]}, "masks[1]: expected no negative run length, got -4"),
        ({"size": [4, 4], "counts": "P"}, "masks[1]: counts are no compressed run lengths"),
        ({"size": [4, 4], "counts": "PPPPPPPPPP0"}, "masks[1]: counts are no compressed run lengths"),
        ({"size": [4, 4], "counts": "\u00e9"}, "masks[1]: counts are no compressed run lengths"),
        ({"size": [4, 4], "counts": [1.5, 14.5]}, "masks[1]: expected counts as text or a list of whole numbers"),
        ({"size": [-4, -4], "counts": [16]}, "masks[1]: expected a size of height and width"),
        ({"size": [1, 2**32], "counts": [2**32]}, "masks[1]: expected at most 4294967295 pixels, got 1 x 4294967296"),
        ({"size": [0, 0], "counts": [2**63, 2**63]}, "masks[1]: expected run lengths that add up to 0 x 0 pixels"),
        ({"size": [4, 4]}, "masks[1]: expected run lengths with size and counts"),
        ([16], "masks[1]: expected run lengths with size and counts"),
    ],
)
def test_run_lengths_that_do_not_fit_are_refused(rle, message):
    with pytest.raises(ValueError) as error:
        decode_masks([{"size": [4, 4], "counts": [16]}, rle])
    assert str(error.value).startswith(message)


def test_masks_of_a_map():
    label_map = np.random.default_rng(0).integers(0, 4, (6, 9))
    masks = label_map[None] == np.arange(1, 4)[:, None, None]
    np.testing.assert_array_equal(label_map_from_masks(encode_masks(masks)), label_map)
    assert [area(rle) for rle in encode_masks(masks)] == masks.sum(axis=(1, 2)).tolist()
    masks[0] = True
    with pytest.raises(ValueError, match="regions: expected masks without overlaps"):
        label_map_from_masks(masks, "regions")


def test_a_mask_takes_the_nearest_pixel_at_another_size():
    mask = np.array([[1, 0, 0], [0, 1, 1]], dtype=bool)
    larger = decode_masks([resize_rle(encode_mask(mask), (4, 6))])[0]
    np.testing.assert_array_equal(larger, mask.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(decode_masks([resize_rle(encode_mask(larger), (2, 3))])[0], mask)
    assert resize_rle({"size": [2, 3], "counts": [0, 1, 2, 1, 1, 1]}, (2, 3)) == encode_mask(mask)
