"""The page in Chromium: what is lit, filters, keys, several images, themes, a phone, many relations."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from usg_psg.masks import encode_mask
from usg_psg.scene_graph import SceneGraph, SceneObject, SceneRelation
from usg_psg.visualization import PageItem, PageWriter, class_color
from usg_psg.visualization.page_labels import page_labels

from .scenes import random_scene
from .test_page import HOSTILE


@pytest.fixture
def show(new_page, tmp_path):
    """Writes items as a page and opens it; at the end, no error may have been logged and nothing loaded."""
    pages, messages, requests = [], [], []

    def open_page(items, width=1280, height=900, fragment="", **options):
        with PageWriter(tmp_path / "page.html", options.pop("title", "Title")) as writer:
            for item in items:
                writer.add(item)
            for timeline in options.pop("timelines", ()):
                writer.add_timeline(timeline)
        page = new_page(viewport={"width": width, "height": height}, **options)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{tmp_path}/page.html{fragment}")
        page.wait_for_selector("body[data-ready=true]")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    # The advice about reading a canvas often is for these tests, not for the page.
    assert [text for text in messages if not text.startswith("Canvas2D: Multiple readback")] == []
    assert {url.partition("#")[0] for url in requests if not url.startswith("data:")} == {
        f"file://{tmp_path}/page.html"
    }


def wait_for(page, name, value):
    """Until the page says so; it does after the frame in which it draws what is lit."""
    page.wait_for_function("([name, value]) => document.body.dataset[name] === value", arg=[name, value])


def rows(page, of="relations"):
    return page.locator(f"#{of} .row:visible")


def scene_item(name="a", **kwargs):
    image, graph, _ = random_scene(**kwargs)
    return PageItem(name, image, graph)


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


@pytest.mark.parametrize("width", [390, 1280])
def test_names_stand_where_python_puts_them(show, width):
    image, graph, _ = random_scene(num_objects=8, size=(300, 400))
    page = show([PageItem("a", image, graph)], width)
    box = page.locator("#stage").bounding_box()
    side = max(box["width"], box["height"])
    tags = [one for one in page_labels(graph) if one["side"] <= side][-1]
    named = [(thing, place) for thing, place in zip(graph.objects, tags["places"], strict=True) if len(place) > 2]
    assert len(named) > 3
    for thing, (_, _, left, top, _, height, *_) in named:
        point = [(left + 3) * side / tags["side"], (top + height / 2) * side / tags["side"]]
        color = page.evaluate(
            """([x, y]) => {
                const light = document.getElementById("light"), ratio = light.width / light.clientWidth;
                return [...light.getContext("2d").getImageData(x * ratio, y * ratio, 1, 1).data];
            }""",
            point,
        )
        assert tuple(color) == (*class_color(thing.name), 255)


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


def test_light_and_dark(show):
    page = show([scene_item()], color_scheme="dark")
    color = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(color) == "rgb(17, 19, 24)"
    page.locator("#theme").click()
    assert page.evaluate(color) == "rgb(244, 245, 247)"
    for theme, expected in (("light", "rgb(244, 245, 247)"), ("dark", "rgb(17, 19, 24)")):
        page.emulate_media(color_scheme=theme)  # the page follows the system when that changes
        page.wait_for_selector(f"html[data-theme={theme}]")
        assert page.evaluate(color) == expected


@pytest.mark.parametrize("width, height", [(390, 844), (320, 568), (760, 375), (900, 700), (1280, 720), (1920, 1080)])
def test_nothing_is_cut_off_at_any_width(show, width, height):
    names = ("a very long name of an object that somebody trained on", "Donaudampfschifffahrtsgesellschaft" * 3, "x")
    items = [
        scene_item("folder/" + "long_file_name_" * 8 + ".jpg", names=names, predicates=("standing right in front of",)),
        scene_item("b", num_objects=30, num_relations=60, size=(90, 300)),
    ]
    page = show(items, width, height, title="A title that is rather long for a phone", has_touch=width < 900)
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        outside = page.evaluate("""() => {
            const frame = document.getElementById("graph").getBoundingClientRect();
            return [...document.querySelectorAll("#graph text, #graph rect")].filter((e) => {
                const b = e.getBoundingClientRect();
                return b.left < frame.left - 1 || b.right > frame.right + 1 ||
                       b.top < frame.top - 1 || b.bottom > frame.bottom + 1;
            }).map((e) => e.textContent || "rect");
        }""")
        assert outside == []
        page.keyboard.press("n")
        page.wait_for_selector("body[data-ready=true]")


@pytest.mark.parametrize("count", [2, 3, 8, 15, 25])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_node_and_label_of_the_graph_has_a_place_of_its_own(show, count, width):
    item = scene_item(num_objects=count, num_relations=count + 5, size=(60, 100), seed=count)
    page = show([item], width)
    boxes = page.evaluate("""() => [...document.querySelectorAll("#graph rect")].map((e) => {
        const [b, t] = [e, e.parentElement.querySelector("text")].map((x) => x.getBBox());
        return [b.x, b.y, b.x + b.width, b.y + b.height, t.x, t.x + t.width];
    })""")
    ends = {(r.subject, r.object) for r in item.graph.relations}
    assert len(boxes) == len(ends) + len({n for pair in ends for n in pair})
    for n, a in enumerate(boxes):
        assert a[0] <= a[4] and a[5] <= a[2], "the text is wider than its box"
        for b in boxes[:n]:
            assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]), (a, b)


def test_the_picture_stays_in_view_on_a_phone(show):
    page = show([scene_item(num_relations=40, num_objects=12)], 390, 844, has_touch=True, is_mobile=True)
    page.locator("#relations").scroll_into_view_if_needed()
    rows(page).nth(1).tap()
    wait_for(page, "active", "relation:1")
    stage = page.locator("#stage").bounding_box()
    assert page.evaluate("scrollY") > 300 and 0 <= stage["y"] < 20


def test_hostile_names_are_shown_and_not_run(show):
    image, graph, _ = random_scene(names=(HOSTILE,), predicates=(HOSTILE, "__proto__", "constructor"))
    page = show([PageItem(HOSTILE, image, graph, note=HOSTILE), scene_item()], title=HOSTILE)
    rows(page).first.hover()
    page.locator("#predicates summary").click()
    page.get_by_label("__proto__").check()
    assert set(rows(page).locator("b").all_inner_texts()) == {"__proto__"}
    page.locator("#tab-objects").click()
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, #strip script, main script").count() == 0
    assert page.locator("#name").text_content() == HOSTILE


def test_thousands_of_relations(show):
    image, graph, _ = random_scene(num_objects=150, num_relations=5000, size=(240, 320))
    page = show([PageItem("a", image, graph)])
    page.locator("#count").fill("5000")
    page.locator("#score").fill("0")
    assert page.locator("#shown").inner_text() == "5000 shown"
    assert page.locator("#relations .row").count() < 40 and page.locator("#graph .line").count() <= 30
    page.evaluate(
        """() => { const list = document.getElementById("relations"); list.scrollTop = list.scrollHeight; }"""
    )
    page.wait_for_selector("#relations-4999:visible")
    page.locator("#relations-4999").hover()
    wait_for(page, "active", "relation:4999")
    assert page.locator("#relations .row").count() < 40, "rows are used again"
    # A hover touches the rows that it lights up and no other: no element comes or goes.
    changes = page.evaluate("""async () => {
        let elements = 0;
        const watch = new MutationObserver((records) => { elements += records.length; });
        for (const id of ["relations", "objects", "graph", "predicate-list"]) {
            watch.observe(document.getElementById(id), { childList: true, subtree: true });
        }
        const rows = [...document.querySelectorAll("#relations .row:not([hidden])")], lit = new Set();
        for (const row of rows) {
            row.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
            await new Promise(requestAnimationFrame);
            lit.add(document.body.dataset.active);
        }
        return [elements, lit.size, rows.length];
    }""")
    # A label that stands for several relations of a pair is written again for the one that is lit.
    assert changes[1] == changes[2] > 5 and changes[0] <= 2 * changes[2]
    assert page.evaluate("document.querySelectorAll('*').length") < 1500


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (20, 1500), (1500, 20), (3000, 4000)])
def test_images_of_any_size(show, size):
    mask = np.zeros(size, bool)
    mask[: (size[0] + 1) // 2] = True
    names = ("Z̶͓a̵̡lgo ‏שלום", "👨‍👩‍👧 'quoted' \"twice\" & <b>")
    objects = [
        SceneObject(name, n, 0.9, True, encode_mask(m))
        for n, (name, m) in enumerate(zip(names, (mask, ~mask), strict=True))
    ]
    graph = SceneGraph(*size, objects, [SceneRelation(0, 1, "beside", 0, 0.5), SceneRelation(1, 1, "on", 1, 0.4)])
    page = show([PageItem(names[1], np.zeros((*size, 3), np.uint8), graph)], 800, 700)
    rows(page).first.hover()
    wait_for(page, "lit", "0,1")
    assert rows(page).first.inner_text().count(names[1]) == 1
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * (0.5 if size[0] == 1 else 0.25))
    wait_for(page, "active", "object:0")
    page.mouse.move(1, 1)
    wait_for(page, "active", "")
    empty = page.evaluate("""() => {
        const light = document.getElementById("light");
        return !light.getContext("2d").getImageData(0, 0, light.width || 1, light.height || 1).data.some((v) => v);
    }""")
    assert empty == (min(box["width"], box["height"]) < 18), "names stand in the picture where they fit whole"


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


def test_an_image_without_objects_or_relations(show):
    image = np.zeros((48, 64, 3), np.uint8)
    page = show([PageItem("a", image, SceneGraph(48, 64, [], []))])
    assert page.locator("#graph-note").inner_text() == "No relations to draw." and rows(page).count() == 0
    assert page.locator("#relations .empty").inner_text() == "No relations."
    page.locator("#tab-objects").click()
    assert page.locator("#objects .empty").inner_text() == "No objects."
    page.keyboard.press("ArrowDown")
    page.locator("#stage").hover()
    wait_for(page, "active", "")
    assert not page.locator("#strip").is_visible() and not page.locator("#image-nav").is_visible()
