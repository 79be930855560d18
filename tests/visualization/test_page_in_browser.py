"""The page in Chromium: what is lit, filters, search, keys, several images, videos."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from usg_psg.visualization import PageItem, class_color

from .browser import rows, scene_item, wait_for
from .scenes import random_scene
from .test_page import HOSTILE


def light_alpha(page):
    """Opacity (H, W) of the layer that dims, at the middle of every pixel of the 48 x 64 image."""
    values = page.evaluate("""() => {
        const light = document.getElementById("light"), context = light.getContext("2d"), out = [];
        const data = context.getImageData(0, 0, light.width, light.height).data;
        for (let y = 0; y < 48; y++) for (let x = 0; x < 64; x++) {
            const row = Math.floor((y + 0.5) * light.height / 48), column = Math.floor((x + 0.5) * light.width / 64);
            out.push(data[4 * (row * light.width + column) + 3]);
        }
        return out;
    }""")
    return np.array(values).reshape(48, 64)


def test_hover_over_a_relation_lights_up_its_masks(show):
    image, graph, labels = random_scene()
    page = show([PageItem("a", image, graph)])
    rows(page).nth(2).hover()
    relation = graph.relations[2]
    wait_for(page, "active", "relation:2")
    wait_for(page, "lit", f"{relation.subject},{relation.object}")
    assert "lit" in rows(page).nth(2).get_attribute("class")
    alpha, lit = light_alpha(page), np.isin(labels, [relation.subject + 1, relation.object + 1])
    # Outlines and labels cover some pixels of the lit masks, so those are neither clear nor evenly dimmed.
    dimmed = np.isin(alpha, [167, 168, 169])
    assert (alpha[lit] == 0).mean() > 0.4 and dimmed[~lit].mean() > 0.4
    assert not (alpha[~lit] == 0).any() and not dimmed[lit].any(), "mask and picture are not aligned"
    assert page.locator("#graph .node.lit").count() == 2 and page.locator("#graph .edge.lit .line").count() == 1
    page.keyboard.press("l")  # without names nothing is drawn over the picture
    page.mouse.move(1, 1)
    wait_for(page, "active", "")
    assert not light_alpha(page).any()


def test_pointing_at_a_pixel_picks_its_object(show):
    image, graph, labels = random_scene()
    page = show([PageItem("a", image, graph)])
    box = page.locator("#stage").bounding_box()
    rng = np.random.default_rng(0)
    for y, x in [(0, 0), (47, 63), (0, 63), (47, 0), *rng.integers(0, (48, 64), (40, 2)).tolist()]:
        page.mouse.move(box["x"] + (x + 0.5) / 64 * box["width"], box["y"] + (y + 0.5) / 48 * box["height"])
        expected = f"object:{labels[y, x] - 1}" if labels[y, x] else ""
        wait_for(page, "active", expected)


def test_masks_are_painted_on_their_pixels(show):
    _, graph, labels = random_scene()
    gray = np.full((48, 64, 3), 128, np.uint8)
    page = show([PageItem("a", gray, graph)])

    def painted():
        """(H, W, 3) of the canvas, which has whole pixels for each pixel of the image."""
        uri = page.evaluate("document.getElementById('photo').toDataURL('image/png')")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")).astype(int)

    canvas = painted()
    factor = canvas.shape[0] // 48
    assert canvas.shape == (48 * factor, 64 * factor, 3) and factor == 14
    enlarged = np.kron(labels, np.ones((factor, factor), int))
    np.testing.assert_array_equal(np.abs(canvas - 128).max(axis=2) > 6, enlarged > 0)
    for n, entry in enumerate(graph.objects):
        shades = np.unique(canvas[enlarged == n + 1], axis=0)
        # Its outline has the colour itself; inside, JPEG keeps the gray to a level or two.
        assert class_color(entry.name) in {tuple(c) for c in shades.tolist()} and len(shades) <= 12
    page.keyboard.press("m")
    assert (np.abs(painted() - 128) <= 6).all()


def test_names_in_the_picture(show):
    image, graph, _ = random_scene(num_objects=20, size=(300, 400))
    page = show([PageItem("a", image, graph)])
    page.keyboard.press("l")
    hidden = page.evaluate("document.getElementById('light').toDataURL()")
    page.locator("#names").click()
    assert page.evaluate("document.getElementById('light').toDataURL()") != hidden
    assert page.locator("#names").get_attribute("aria-pressed") == "true"
    page.keyboard.press("m")
    assert page.evaluate("document.getElementById('light').toDataURL()") == hidden, "names go with the masks"
    assert page.locator("#names").is_disabled()


def test_a_chosen_object_keeps_only_its_relations(show):
    image, graph, _ = random_scene()
    page = show([PageItem("a", image, graph)])
    page.locator("#graph .node[data-object='0']").click()
    page.mouse.move(1, 1)
    wait_for(page, "active", "object:0")
    expected = [n for n, r in enumerate(graph.relations) if 0 in (r.subject, r.object)]
    assert [int(t) - 1 for t in rows(page).locator(".rank").all_inner_texts()] == expected
    page.locator("#chosen-clear").click()
    assert rows(page).count() == 12
    page.locator("#tab-objects").click()
    rows(page, "objects").nth(1).click()
    page.mouse.move(1, 1)
    wait_for(page, "active", "object:1")


def test_filters(show):
    page = show([scene_item()])
    assert rows(page).count() == 12
    page.locator("#predicates summary").click()
    page.get_by_label("holding").check()
    assert set(rows(page).locator("b").all_inner_texts()) == {"holding"} and rows(page).count() == 4
    page.get_by_label("beside").check()
    assert set(rows(page).locator("b").all_inner_texts()) == {"holding", "beside"} and rows(page).count() == 8
    page.locator("#reset").click()
    assert rows(page).count() == 12
    page.locator("#score").fill("0.5")
    assert rows(page).count() == 7
    page.locator("#count").fill("3")
    assert rows(page).count() == 3 and page.locator("#graph .line").count() <= 3
    page.locator("#reset").click()
    page.locator("#search").fill("beside DOG")
    shown = rows(page).locator(".words").all_inner_texts()
    assert shown and all("dog" in text and "beside" in text for text in shown)
    page.locator("#search").fill("no such thing")
    assert rows(page).count() == 0
    assert page.locator("#relations .empty").inner_text() == "No relation fits the filters."


def test_the_page_starts_where_the_pictures_cut(show):
    """Relations below the threshold are out at first and faint when they are asked for."""
    image, graph, _ = random_scene(num_relations=3)
    for relation, score in zip(graph.relations, (0.5, 0.02, 0.0199), strict=True):
        relation.score = score
    page = show([PageItem("a", image, graph)])
    assert rows(page).count() == 2 and page.locator("#score-value").inner_text() == "0.02"
    assert page.locator("#graph .edge.weak").count() == page.locator(".row.weak:visible").count() == 0
    page.locator("#score").fill("0")
    assert rows(page).count() == 3 and page.locator(".row.weak:visible").count() == 1
    weak = page.locator("#graph .edge.weak .line")
    assert weak.count() == 1 and weak.evaluate("line => getComputedStyle(line).opacity") == "0.5"
    page.locator("#reset").click()
    assert rows(page).count() == 2
    graph.relations = graph.relations[2:]
    page = show([PageItem("a", image, graph)])
    assert page.locator("#relations .empty").inner_text() == "No relation reaches the least score."
    page = show([PageItem("a", image, graph)], fragment="#relation=1")
    wait_for(page, "active", "relation:0")


def test_the_search_covers_all_images(show):
    """Images that it does not fit leave the strip, and n, p and Enter pass over them."""
    items = [scene_item(name, names=(name,), num_objects=3, num_relations=2) for name in ("cat", "dog", "cow", "dog")]
    page = show(items)
    page.locator("#search").fill("holding DOG")
    assert page.locator("#found").inner_text() == "Found in 0 of 4 images", "the second predicate is beside"
    page.locator("#search").fill("dog beside")
    wait_for(page, "found", "2,4")
    assert page.locator("#found").inner_text() == "Found in 2 of 4 images"
    assert page.locator("#strip button:visible").count() == 3, "and the one that is shown"
    for key, name, position in (("Enter", "dog", 2), ("Enter", "dog", 4), ("Enter", "dog", 2)):
        page.locator("#search").press(key)
        page.wait_for_selector("body[data-ready=true]")
        assert (page.locator("#name").inner_text(), page.locator("#position").inner_text()) == (
            name,
            f"{position} of 4",
        )
    assert page.locator("#previous").is_disabled() and rows(page).count() == 1
    page.locator("#search").fill("cow")  # the name of an object
    wait_for(page, "found", "3")
    page.locator("#score").fill("0.9")
    page.locator("#search").fill("beside")
    wait_for(page, "found", "")
    page.keyboard.press("Escape")
    wait_for(page, "found", "all")
    assert page.locator("#strip button:visible").count() == 4 and not page.locator("#found").is_visible()


def test_keys(show):
    page = show([scene_item("first"), scene_item("second", seed=1)])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    wait_for(page, "active", "relation:1")
    page.keyboard.press("ArrowUp")
    wait_for(page, "active", "relation:0")
    page.keyboard.press("/")
    page.keyboard.type("npg")
    assert page.locator("#search").input_value() == "npg" and page.locator("#name").inner_text() == "first"
    page.keyboard.press("Escape")
    wait_for(page, "active", "")
    assert page.locator("#search").input_value() == "" and rows(page).count() == 12
    page.keyboard.press("n")
    page.wait_for_selector("body[data-ready=true]")
    assert page.locator("#name").inner_text() == "second" and page.locator("#position").inner_text() == "2 of 2"
    page.keyboard.press("n")
    assert page.locator("#name").inner_text() == "second", "there is no third image"
    page.keyboard.press("p")
    assert page.locator("#name").inner_text() == "first"
    # A slider keeps its arrow keys.
    page.locator("#count").focus()
    page.keyboard.press("ArrowLeft")
    assert rows(page).count() == 11
    wait_for(page, "active", "")
    node = page.locator("#graph .node").first
    node.focus()
    page.keyboard.press("Enter")
    wait_for(page, "active", f"object:{node.get_attribute('data-object')}")


def test_images_are_switched_by_their_thumbnails_and_by_address(show):
    items = [scene_item(name, seed=n, num_relations=4 + n) for n, name in enumerate(["a", "b", "a/folder/c"])]
    page = show(items, fragment="#image=2&relation=3")
    wait_for(page, "active", "relation:2")
    assert page.locator("#name").inner_text() == "b"
    assert page.locator("#strip button").count() == 3
    page.locator("#strip button").nth(2).click()
    page.wait_for_selector("body[data-ready=true]")
    assert page.locator("#name").inner_text() == "a/folder/c" and rows(page).count() == 6
    assert page.locator("#strip button[aria-current=true]").inner_text() == "c"


def test_hits_and_errors(show):
    image, graph, _ = random_scene(num_relations=6)
    truth = random_scene(num_relations=4)[1]
    marks, truth_marks = ["hit", "wrong"] * 3, ["missed", "hit", "hit", "missed"]
    item = PageItem("a", image, graph, truth, marks, truth_marks, scores=False, note="recall 2 of 4")
    page = show([item])
    assert not page.locator("#score-row").is_visible() and page.locator("#note").inner_text() == "recall 2 of 4"
    page.get_by_role("button", name="wrong 3").click()
    assert rows(page).locator(".wrong-mark").count() == rows(page).count() == 3
    page.get_by_role("button", name="Annotated").click()
    assert rows(page).count() == 4 and rows(page).locator(".missed-mark").count() == 2
    page.keyboard.press("g")
    assert page.locator("#layers button[aria-pressed=true]").inner_text() == "Predicted"


def test_relations_of_a_video_over_its_frames(show):
    items = [scene_item(name) for name in "abcde"]
    hostile = HOSTILE + " on dog 2"
    timelines = [
        [("person 1 on dog 2", 1, 2, 0.5)],
        [(hostile, 4, 4, 0.5), ("cat 1 on mat 2", 3, 4, 0.2)],
    ]
    page = show(items, timelines=timelines)
    table = page.locator("#timeline-rows button")
    assert not page.locator("#timeline").is_visible(), "an image that is no frame"
    page.keyboard.press("n")
    page.wait_for_selector("#timeline:not([hidden])")
    assert table.all_inner_texts() == ["person 1 on dog 2"]
    page.keyboard.press("n")
    page.keyboard.press("n")
    page.wait_for_function("document.querySelectorAll('#timeline-rows button').length === 2")
    assert table.nth(0).inner_text() == hostile and "off" in table.nth(0).get_attribute("class")
    bar, track = (table.nth(0).locator(name).bounding_box() for name in (".span", ".track"))
    assert bar["x"] == pytest.approx(track["x"] + track["width"] / 2, abs=1)
    assert bar["width"] == pytest.approx(track["width"] / 2, abs=1)
    table.nth(0).click()
    page.wait_for_function("document.getElementById('name').textContent === 'e'")
    assert "off" not in (table.nth(0).get_attribute("class") or "")
