"""What is decoded by OpenCV is what Pillow says, and nothing broken is taken."""

import io
import re

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from usg_psg import images
from usg_psg.data import decode_panoptic_png
from usg_psg.images import ImageError, decode_rgb, opened_image, read_image


def picture(height=61, width=83):
    """Smooth and noisy at once."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([127 + 120 * np.sin(x / 9), 127 + 120 * np.cos(y / 7), (x * y) % 256], axis=2)
    return (waves + np.random.default_rng(0).normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8)


def saved(kind):
    """A file of one of the kinds of JPEG and PNG."""
    image, file = Image.fromarray(picture()), io.BytesIO()
    if kind == "deep":
        return cv2.imencode(".png", picture().astype(np.uint16) * 257 + 101)[1].tobytes()
    if kind == "animated":
        image.save(file, "PNG", save_all=True, append_images=[image.rotate(90)])
        return file.getvalue()
    if kind in ("gamma", "transparent"):
        info = PngImagePlugin.PngInfo()
        colour = b"".join(bytes([0, value]) for value in picture()[30, 40].tolist())
        added = {"gamma": (b"gAMA", (100000).to_bytes(4, "big")), "transparent": (b"tRNS", colour)}[kind]
        info.add(*added)
        image.save(file, "PNG", pnginfo=info)
        return file.getvalue()
    if kind in ("L", "P", "RGBA", "1", "I;16"):
        image = Image.fromarray(picture()[..., 0].astype(np.uint16) * 257) if kind == "I;16" else image.convert(kind)
        image.save(file, "PNG")
        return file.getvalue()
    options = {
        "png": {"format": "PNG"},
        "full": {"format": "JPEG", "subsampling": 0, "quality": 97},
        "progressive": {"format": "JPEG", "progressive": True},
        "untransformed": {"format": "JPEG", "keep_rgb": True},
        "turned": {
            "format": "JPEG",
            "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
        },
    }
    kinds = {"gray": image.convert("L"), "cmyk": image.convert("CMYK")}
    kinds.get(kind, image).save(file, **options.get(kind, {"format": "JPEG"}))
    return file.getvalue() + bytes(3) * (kind == "trailing")


USUAL = ("jpeg", "full", "progressive", "untransformed", "png", "gamma", "transparent")
OTHERS = ("turned", "trailing", "gray", "cmyk", "deep", "animated", "L", "P", "RGBA", "1", "I;16")


@pytest.fixture
def by_pillow_alone(monkeypatch):
    def call(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(images, "_usual_content", lambda image: None)
            return function(*args, **kwargs)

    return call


def decoded(path):
    with opened_image(str(path), "7") as image:
        return decode_rgb(image)


@pytest.mark.parametrize("kind", USUAL + OTHERS)
def test_pixels_are_those_of_pillow(kind, tmp_path, monkeypatch, by_pillow_alone):
    path, calls, decode = tmp_path / "picture", [], cv2.imdecode
    path.write_bytes(saved(kind))
    found, expected = read_image(str(path)), by_pillow_alone(read_image, str(path))
    assert found.dtype == np.uint8 and found.shape == ((83, 61, 3) if kind == "turned" else (61, 83, 3))
    assert np.array_equal(found, expected)
    if Image.open(path).mode == "RGB":
        monkeypatch.setattr(cv2, "imdecode", lambda *args: calls.append(1) or decode(*args))
        assert np.array_equal(decoded(path), by_pillow_alone(decoded, path))
        is_usual = hasattr(cv2, "IMREAD_COLOR_RGB") and (kind in USUAL or kind == "turned")
        assert bool(calls) == is_usual, "what it decodes, and nothing else, is OpenCV's"


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_what_is_cut_off_or_damaged_is_refused_as_by_pillow(kind, tmp_path, by_pillow_alone):
    content, numbers, refused = saved(kind), np.random.default_rng(0), 0
    broken = [content[:place] + end for place in numbers.integers(30, len(content), 40) for end in (b"", content[-12:])]
    for place, bit in zip(numbers.integers(30, len(content), 40), numbers.integers(0, 8, 40), strict=True):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(bit)
        broken.append(bytes(flipped))
    for number, each in enumerate(broken):
        path = tmp_path / str(number)
        path.write_bytes(each)
        try:
            expected = by_pillow_alone(decoded, path)
        except ImageError as error:
            refused += 1
            with pytest.raises(ImageError, match=re.escape(str(error))):
                decoded(path)
        else:
            assert np.array_equal(decoded(path), expected)
    assert refused >= 40


def test_a_picture_of_pillow_is_read_as_it_is_now(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(saved("png"))
    with Image.open(path) as image:
        image.putpixel((2, 1), (1, 2, 3))
        assert read_image(image)[1, 2].tolist() == [1, 2, 3]
    with Image.open(path) as image:
        assert np.array_equal(read_image(image), picture())
        assert np.array_equal(np.asarray(image), picture()), "it can still be used"


def test_ids_of_a_panoptic_png_have_three_bytes():
    ids = np.array([[0, 1, 256], [65536, 16777215, 70000]])
    file = io.BytesIO()
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)).save(file, "PNG")
    found = decode_panoptic_png(file)
    assert found.dtype == np.int32 and found.flags.c_contiguous and np.array_equal(found, ids)
