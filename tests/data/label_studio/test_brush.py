"""Run lengths of masks as Label Studio stores them, beside its own package."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from usg_psg.data.label_studio import decode_brush, encode_brush


@pytest.fixture(scope="module")
def brush():
    """label_studio_sdk.converter.brush, without the package around it, whose imports take seconds."""
    found = importlib.util.find_spec("label_studio_sdk")
    if found is None:
        pytest.skip("label-studio-sdk is not installed")
    path = Path(found.origin).parent / "converter" / "brush.py"
    spec = importlib.util.spec_from_file_location("brush", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def disk(height, width):
    rows, columns = np.ogrid[:height, :width]
    return (rows - height / 2) ** 2 + (columns - width / 3) ** 2 < (height / 3) ** 2


MASKS = {
    "disk": disk(48, 64),
    "full": np.ones((150, 130), dtype=bool),  # 78,000 values: more than a run can have
    "empty": np.zeros((5, 7), dtype=bool),
    "noise": np.random.default_rng(0).random((20, 30)) < 0.5,
    "pixel": np.ones((1, 1), dtype=bool),
}


@pytest.mark.parametrize("name", MASKS)
def test_same_mask_as_by_label_studio(name, brush):
    mask = MASKS[name]
    values = np.asarray(brush.decode_rle(encode_brush(mask)))
    assert np.array_equal(values.reshape(*mask.shape, 4), np.repeat(mask[..., None], 4, axis=2) * 255)
    assert np.array_equal(decode_brush(brush.mask2rle(mask.astype(np.uint8) * 255), mask.shape), mask)


@pytest.mark.parametrize("name", MASKS)
def test_round_trip(name):
    assert np.array_equal(decode_brush(encode_brush(MASKS[name]), MASKS[name].shape), MASKS[name])


def test_single_values():
    """A block of two values, of which the fourth channel of the pixel is the last one; opaque from one half on."""
    for alpha, inside in ((127, False), (128, True)):
        bits = f"{4:032b}" + f"{7:05b}" + "0010001101111111" + "0" + "00" + f"{3:03b}"
        bits += "".join(f"{value:08b}" for value in (0, 0, 0, alpha))
        bits += "0" * (-len(bits) % 8)
        data = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
        assert decode_brush(data, (1, 1)).tolist() == [[inside]]


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ("abc", "expected a list of bytes"),
        ([1, 2, 300], "expected a list of bytes"),
        ([], "expected a mask of 4 x 6 pixels, got 0 pixels"),
        (encode_brush(np.ones((4, 5), dtype=bool)), "expected a mask of 4 x 6 pixels, got 20 pixels"),
        (encode_brush(np.eye(4, 6, dtype=bool))[:20], "the run lengths end early"),
        (encode_brush(np.eye(4, 6, dtype=bool))[:7], "the run lengths end early"),
        (encode_brush(np.eye(4, 6, dtype=bool))[:4], "the run lengths end early"),
    ],
)
def test_broken(rle, message):
    with pytest.raises(ValueError, match=message):
        decode_brush(rle, (4, 6))
