"""Pictures: panoptic PNGs and photographs of every kind."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from usg_psg.data import decode_panoptic_png, encode_panoptic, segment_index_map
from usg_psg.images import ImageError, check_image, read_image

ROOT = Path(__file__).resolve().parents[2]


def segments(*ids):
    return [{"id": i} for i in ids]


def test_decode_uses_all_three_channels(tmp_path):
    pixels = np.array([[[255, 255, 255], [1, 2, 3]], [[200, 250, 0], [0, 0, 0]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    ids = decode_panoptic_png(str(tmp_path / "a.png"))
    assert ids.dtype == np.int32
    assert ids.tolist() == [[256**3 - 1, 1 + 2 * 256 + 3 * 65536], [200 + 250 * 256, 0]]
    assert np.array_equal(encode_panoptic(ids), pixels)


def test_a_photograph_with_another_beginning_in_the_middle_is_refused(tmp_path):
    """Other decoders, such as OpenCV's, give the part above, and gray."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)).save(file, "JPEG")
    content, middle = file.getvalue(), len(file.getvalue()) // 2
    (tmp_path / "picture.jpg").write_bytes(content[:middle] + b"\xff\xd8" + content[middle:])
    with pytest.raises(ImageError, match=r"picture.jpg \(image_id '7'\): not a readable image"):
        read_image(str(tmp_path / "picture.jpg"), image_id="7")


def test_index_map():
    ids = np.array([[0, 9], [70_000, 9]], dtype=np.int32)
    index, disagreements = segment_index_map(ids, segments(70_000, 9))
    assert disagreements == []
    assert index.dtype == np.uint8
    assert index.tolist() == [[0, 2], [1, 2]]
    assert segment_index_map(np.zeros((2, 2), np.int32), [])[0].tolist() == [[0, 0], [0, 0]]


def test_index_map_disagrees_with_segments():
    ids = np.array([[5, 9], [70_000, 9]], dtype=np.int32)
    index, (unlisted,) = segment_index_map(ids, segments(9), file_name="p.png", image_id="3")
    assert str(unlisted) == "p.png (image_id '3'): segments_info lacks the ids 5, 70000 of the panoptic PNG"
    assert unlisted.problem == "unlisted_ids" and index.tolist() == [[0, 1], [0, 1]]
    index, (absent,) = segment_index_map(ids, segments(5, 8, 9, 70_000), file_name="p.png", image_id="3")
    assert str(absent) == "p.png (image_id '3'): the panoptic PNG lacks the ids 8 of segments_info"
    assert absent.problem == "ids_without_pixels" and index.tolist() == [[1, 3], [4, 3]]
    many = np.arange(1, 12, dtype=np.int32)[None]
    assert "1, 2, 3, 4, 5 and 6 more" in str(segment_index_map(many, [])[1][0])
    with pytest.raises(ValueError, match="at most 65535 segments, got 65536"):
        segment_index_map(many, segments(*range(1, 65537)))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_panoptic_png_of_another_kind(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(ValueError, match=f"'7'.*this one has mode {mode}"):
        decode_panoptic_png(str(path), image_id="7")


@pytest.mark.parametrize("read", [decode_panoptic_png, read_image])
def test_missing_and_corrupt_files(tmp_path, read):
    path = tmp_path / "a.png"
    with pytest.raises(FileNotFoundError, match="a.png.*'7'.*no such file"):
        read(str(path), image_id="7")
    path.write_bytes(b"no image at all")
    with pytest.raises(ValueError, match="a.png.*'7'.*not a readable image"):
        read(str(path), image_id="7")
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, "png")
    path.write_bytes(whole.getvalue()[:4000])
    with pytest.raises(ValueError, match="a.png.*'7'.*not a readable image"):
        read(str(path), image_id="7")


@pytest.mark.parametrize("name", ["a.jpg", "a.eps"])
@pytest.mark.parametrize("read", [decode_panoptic_png, read_image, check_image])
def test_no_image_starts_another_program(tmp_path, monkeypatch, name, read):
    """EPS content is known by its first bytes, and Pillow would hand it to Ghostscript."""
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments: started.append(arguments))
    (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ValueError, match="'7'.*not a readable image"):
        read(str(tmp_path / name), size=(8, 16), image_id="7")
    assert started == []


@pytest.mark.parametrize("name", ["a.jpg", "a.mpo", "a.png", "a.webp", "a.bmp", "a.tif", "a.gif", "a.ppm", "a.jp2"])
def test_formats_that_are_read(tmp_path, name):
    Image.new("RGB", (16, 8), (90, 90, 90)).save(tmp_path / name)
    assert np.abs(read_image(str(tmp_path / name)).astype(int) - 90).max() < 3


def test_every_image_is_opened_by_open_image():
    opened = [
        f"{path.name}:{number}"
        for path in [*(ROOT / "usg_psg").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if "Image.open(" in line and "formats=formats" not in line
    ]
    assert opened == []


def test_channel_order(tmp_path):
    path = str(tmp_path / "a.png")
    Image.fromarray(np.full((4, 5, 3), (10, 20, 30), np.uint8)).save(path)
    assert read_image(path)[0, 0].tolist() == [10, 20, 30]
    assert read_image(path, "BGR")[0, 0].tolist() == [30, 20, 10]
    with pytest.raises(ValueError, match="image_format"):
        read_image(path, "L")


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "expected"),
    [
        ("L", 90, "jpg", (90, 90, 90)),
        ("CMYK", (0, 255, 255, 0), "jpg", (255, 0, 0)),
        ("RGBA", (10, 200, 30, 128), "png", (10, 200, 30)),
        ("1", 1, "png", (255, 255, 255)),
        ("I;16", 200 * 256, "png", (200, 200, 200)),
    ],
)
def test_other_colour_modes(tmp_path, mode, color, suffix, expected):
    path = str(tmp_path / f"a.{suffix}")
    Image.new(mode, (16, 8), color).save(path)
    pixels = read_image(path, size=(8, 16))
    assert pixels.shape == (8, 16, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= 3


def test_orientation_follows_the_annotated_size(tmp_path):
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, :8] = 255  # as stored, the left half is white
    path = str(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(pixels).save(path, exif=exif)
    upright = read_image(path, size=(16, 8))
    assert upright.shape == (16, 8, 3) and upright[:8].min() == 255 and upright[8:].max() == 0
    assert np.array_equal(read_image(path, size=(8, 16)), pixels)
    assert read_image(path).shape == (16, 8, 3)
    with pytest.raises(ValueError, match="height x width 9 x 16, the image has 16 x 8"):
        read_image(path, size=(9, 16))
