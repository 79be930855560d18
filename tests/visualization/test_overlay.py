"""Overlays: masks to the pixel, labels inside and apart, the same in pixels and vectors."""

import base64
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageDraw

from usg_psg.masks import encode_mask
from usg_psg.scene_graph import SceneGraph
from usg_psg.visualization import class_color, draw_overlay, save_overlay
from usg_psg.visualization.figures import drawing
from usg_psg.visualization.geometry import shared_area
from usg_psg.visualization.overlay import add_overlay, compose_overlay, label_font, owner_map, paint_masks

from .scenes import blobs, stripes


def alone(graph: SceneGraph, index: int) -> SceneGraph:
    return SceneGraph(graph.height, graph.width, [graph.objects[index]], [])


@pytest.mark.parametrize("size", [(60, 80), (211, 307)])
def test_painted_pixels_are_those_of_the_mask(size):
    rng = np.random.default_rng(0)
    graph = blobs(rng, *size, 9)
    image = np.zeros((*size, 3), np.uint8)
    for index, thing in enumerate(graph.objects):
        painted = paint_masks(image, alone(graph, index)).any(axis=2)
        assert (painted == thing.mask_array()).all()
    everything = paint_masks(image, graph)
    for thing in graph.objects:
        shades = {tuple(c) for c in everything[thing.mask_array()].tolist()}
        color = class_color(thing.name)
        opacity = 0.45 if thing.isthing else 0.22
        assert shades <= {color, tuple(round(opacity * c) for c in color)}, "its own colour and nothing else"


@pytest.mark.parametrize("scale", [0.5, 1.7, 3.0])
def test_scaled_masks_take_the_nearest_pixel(scale):
    graph = blobs(np.random.default_rng(1), 90, 130, 6)
    image = np.zeros((90, 130, 3), np.uint8)
    for index, thing in enumerate(graph.objects):
        painted = paint_masks(image, alone(graph, index), scale).any(axis=2)
        height, width = round(90 * scale), round(130 * scale)
        assert painted.shape == (height, width)
        rows = (2 * np.arange(height) + 1) * 90 // (2 * height)
        columns = (2 * np.arange(width) + 1) * 130 // (2 * width)
        assert (painted == thing.mask_array()[rows][:, columns]).all()


def test_small_images_are_enlarged_and_the_input_is_left_alone():
    image = np.zeros((60, 80, 3), np.uint8)
    picture = draw_overlay(image, stripes())
    assert picture.shape == (675, 900, 3)
    assert draw_overlay(image, stripes(), scale=1).shape == (60, 80, 3)
    assert not image.any()
    with pytest.raises(ValueError, match="60x80"):
        draw_overlay(np.zeros((10, 10, 3), np.uint8), stripes())


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (8, 3000), (3000, 40)])
def test_long_images_are_enlarged_within_bounds(size):
    graph = stripes(*size, count=1)
    overlay = compose_overlay(np.zeros((*size, 3), np.uint8), graph)
    assert max(overlay.pixels.shape) == 16_000
    assert [label.text for label in overlay.labels] == (["grass"] if min(size) > 1 else [])
    assert overlay.font <= max(13, min(overlay.pixels.shape[:2]) / 10), "large letters would hide all of it"
    assert draw_overlay(np.zeros((*size, 3), np.uint8), graph, scale=6).shape == (6 * size[0], 6 * size[1], 3)


def test_outlines_of_long_images_leave_room_for_what_is_inside():
    graph = stripes(40, 3000, count=4)
    painted = paint_masks(np.zeros((40, 3000, 3), np.uint8), graph, scale=5)
    outline = (painted == np.array(class_color("person"))).all(axis=2)
    assert 0 < outline[100].sum() <= 3 * 2 * 2, "two pixels on both sides of three stripes"


def test_names_that_find_no_room_do_not_enlarge_without_end(monkeypatch):
    monkeypatch.setattr("usg_psg.visualization.overlay.place_labels", lambda owner, sizes, *_: [None] * len(sizes))
    pixels = compose_overlay(np.zeros((600, 800, 3), np.uint8), stripes(600, 800)).pixels
    assert 4e6 < pixels.shape[0] * pixels.shape[1] <= 8e6
    assert compose_overlay(np.zeros((2900, 3000, 3), np.uint8), stripes(2900, 3000)).pixels.shape == (2900, 3000, 3)


@pytest.mark.parametrize("seed", range(6))
def test_labels_stay_inside_and_apart(seed):
    rng = np.random.default_rng(seed)
    height, width, count = int(rng.integers(40, 500)), int(rng.integers(40, 700)), int(rng.integers(2, 45))
    graph = blobs(rng, height, width, count)
    overlay = compose_overlay(np.zeros((height, width, 3), np.uint8), graph)
    present = [o.label for o in graph.objects if o.mask_array().any()]
    assert sorted(label.text for label in overlay.labels) == sorted(present), "every object has its label"
    boxes = np.array([label.place.box for label in overlay.labels])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= overlay.pixels.shape[1::-1]).all()
    assert (shared_area(boxes, boxes)[~np.eye(len(boxes), dtype=bool)] == 0).all()
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    for label, (left, top, right, bottom) in zip(overlay.labels, boxes, strict=True):
        middle = ((left + right) / 2, (top + bottom) / 2)
        text = draw.textbbox(middle, label.text, font=label_font(overlay.font), anchor="mm")
        assert text[0] >= left and text[1] >= top and text[2] <= right and text[3] <= bottom
    assert overlay.font >= 13


@pytest.mark.parametrize("seed", range(6))
def test_a_label_sits_on_its_object_or_has_a_line_to_it(seed):
    graph = blobs(np.random.default_rng(seed), 300, 400, 20)
    overlay = compose_overlay(np.zeros((300, 400, 3), np.uint8), graph)
    factor = overlay.pixels.shape[0] / 300
    masks = {o.label: o.mask_array() for o in graph.objects}
    for label in overlay.labels:
        x, y = label.place.anchor
        assert masks[label.text][int(y / factor), int(x / factor)], "the anchor is a pixel of the object"
        left, top, right, bottom = label.place.box
        if label.place.leader is None:
            rows = (np.arange(top, bottom) / factor).astype(int)
            columns = (np.arange(left, right) / factor).astype(int)
            assert masks[label.text][rows][:, columns].mean() > 0.5
        else:
            end = label.place.leader
            assert left <= end[0] <= right and top <= end[1] <= bottom


@pytest.mark.parametrize("size", [(300, 900), (900, 300), (600, 900)])
def test_the_name_of_a_single_object_stands_in_its_middle(size):
    (label,) = compose_overlay(np.zeros((*size, 3), np.uint8), stripes(*size, count=1)).labels
    assert np.allclose(label.place.anchor, (size[1] / 2, size[0] / 2), atol=2)


def test_a_small_object_is_not_hidden_by_its_label():
    graph = stripes(600, 900, count=1)
    mask = np.zeros((600, 900), bool)
    mask[300:308, 400:410] = True
    graph.objects.append(stripes(count=2).objects[1])
    graph.objects[1].mask = encode_mask(mask)
    overlay = compose_overlay(np.zeros((600, 900, 3), np.uint8), graph)
    label = next(x for x in overlay.labels if x.text == "person")
    left, top, right, bottom = (int(v) for v in label.place.box)
    assert label.place.leader is not None and not mask[top:bottom, left:right].any()


def test_where_masks_overlap_the_smaller_one_shows():
    graph = stripes(count=2)
    large, small = np.ones((60, 80), bool), np.zeros((60, 80), bool)
    small[10:20, 10:20] = True
    for order in ((large, small), (small, large)):
        for thing, mask in zip(graph.objects, order, strict=True):
            thing.mask = encode_mask(mask)
        owner = owner_map(graph)
        index = 1 + int(order[1] is small)
        assert (owner[small] == index).all() and (owner[~small] == 3 - index).all()


def test_an_object_without_pixels_is_left_out():
    graph = stripes()
    graph.objects[1].mask = encode_mask(np.zeros((60, 80), bool))
    texts = [label.text for label in compose_overlay(np.zeros((60, 80, 3), np.uint8), graph).labels]
    assert "person 1" not in texts and len(texts) == 3
    assert draw_overlay(np.zeros((60, 80, 3), np.uint8), SceneGraph(60, 80, [], [])).any() == 0


def test_files(tmp_path):
    image = np.full((60, 80, 3), 90, np.uint8)
    graph = stripes()
    for suffix in ("png", "jpg", "svg", "pdf"):
        save_overlay(tmp_path / f"a.{suffix}", image, graph)
    written = np.asarray(Image.open(tmp_path / "a.png"))
    assert (written == draw_overlay(image, graph)).all()
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}"
    texts = ["".join(t.itertext()).strip() for t in root.iter(f"{svg}text")]
    assert sorted(texts) == ["grass", "person 1", "person 2", "person 3"]
    embedded = [i.get("{http://www.w3.org/1999/xlink}href") for i in root.iter(f"{svg}image")]
    assert len(embedded) == 1 and embedded[0].startswith("data:image/png;base64,")
    pixels = Image.open(BytesIO(base64.b64decode(embedded[0].split(",", 1)[1])))
    assert pixels.size == (900, 675)
    with pytest.raises(ValueError, match="a.txt.*png"):
        save_overlay(tmp_path / "a.txt", image, graph)


def test_vector_labels_stand_in_their_boxes():
    graph = blobs(np.random.default_rng(3), 200, 300, 15)
    overlay = compose_overlay(np.zeros((200, 300, 3), np.uint8), graph)
    height, width = overlay.pixels.shape[:2]
    figure, axes = drawing(width, height)
    add_overlay(axes, overlay)
    renderer = figure.canvas.get_renderer()
    patches = [p for p in axes.patches if isinstance(p, FancyBboxPatch)]
    boxes = np.array([p.get_window_extent(renderer).extents for p in patches])
    texts = np.array([t.get_window_extent(renderer).extents for t in axes.texts])
    assert len(boxes) == len(texts) == len(overlay.labels)
    assert (texts[:, :2] >= boxes[:, :2] - 1).all() and (texts[:, 2:] <= boxes[:, 2:] + 1).all()
    expected = np.array([label.place.box for label in overlay.labels])
    assert np.allclose(boxes[:, [0, 2]], expected[:, [0, 2]]) and np.allclose(height - boxes[:, 3], expected[:, 1])
