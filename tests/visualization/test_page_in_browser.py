"""The page in Chromium: what is lit, filters, keys, several images, themes, a phone, many relations."""

import shutil

import numpy as np
import pytest

from usg_psg.predictor import SceneGraph
from usg_psg.visualization import PageItem, write_page

from .scenes import random_scene
from .test_page import HOSTILE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path):
    """Writes items as a page and opens it; at the end, no error may have been logged and nothing loaded."""
    pages, messages, requests = [], [], []

    def open_page(items, width=1280, height=900, fragment="", **options):
        write_page(tmp_path / "page.html", items, options.pop("title", "Title"))
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
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
    assert all(url.startswith(("file://", "data:", "blob:")) for url in requests)


def state(page, name):
    return page.evaluate("(name) => new Promise((r) => requestAnimationFrame(() => "
                         "requestAnimationFrame(() => r(document.body.dataset[name]))))", name)  # fmt: skip


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
    assert state(page, "active") == "relation:2" and state(page, "lit") == f"{relation.subject},{relation.object}"
    assert "lit" in rows(page).nth(2).get_attribute("class")
    alpha, lit = light_alpha(page), np.isin(labels, [relation.subject + 1, relation.object + 1])
    # Outlines and labels cover some pixels of the lit masks, so those are neither clear nor evenly dimmed.
    dimmed = np.isin(alpha, [167, 168, 169])
    assert (alpha[lit] == 0).mean() > 0.4 and dimmed[~lit].mean() > 0.4
    assert not (alpha[~lit] == 0).any() and not dimmed[lit].any(), "mask and picture are not aligned"
    assert page.locator("#graph .node.lit").count() == 2 and page.locator("#graph .edge.lit").count() == 1
    page.mouse.move(1, 1)
    assert state(page, "active") == "" and not light_alpha(page).any()


def test_pointing_at_a_pixel_picks_its_object(show):
    image, graph, labels = random_scene()
    page = show([PageItem("a", image, graph)])
    box = page.locator("#stage").bounding_box()
    rng = np.random.default_rng(0)
    for y, x in [(0, 0), (47, 63), (0, 63), (47, 0), *rng.integers(0, (48, 64), (40, 2)).tolist()]:
        page.mouse.move(box["x"] + (x + 0.5) / 64 * box["width"], box["y"] + (y + 0.5) / 48 * box["height"])
        expected = f"object:{labels[y, x] - 1}" if labels[y, x] else ""
        assert state(page, "active") == expected, (y, x)


def test_masks_are_painted_on_their_pixels(show):
    _, graph, labels = random_scene()
    gray = np.full((48, 64, 3), 128, np.uint8)
    page = show([PageItem("a", gray, graph)])
    read = """() => Array.from(document.getElementById("photo").getContext("2d").getImageData(0, 0, 64, 48).data)"""
    painted = np.array(page.evaluate(read)).reshape(48, 64, 4)[..., :3]
    changed = np.abs(painted - 128).max(axis=2) > 6
    np.testing.assert_array_equal(changed, labels > 0)
    page.keyboard.press("m")
    assert (np.abs(np.array(page.evaluate(read)).reshape(48, 64, 4)[..., :3] - 128) <= 6).all()


def test_a_chosen_object_keeps_only_its_relations(show):
    image, graph, _ = random_scene()
    page = show([PageItem("a", image, graph)])
    page.locator("#graph .node[data-object='0']").click()
    page.mouse.move(1, 1)
    assert state(page, "active") == "object:0"
    expected = [n for n, r in enumerate(graph.relations) if 0 in (r.subject, r.object)]
    assert [int(t) - 1 for t in rows(page).locator(".rank").all_inner_texts()] == expected
    page.locator("#chosen-clear").click()
    assert rows(page).count() == 12
    page.locator("#tab-objects").click()
    rows(page, "objects").nth(1).click()
    page.mouse.move(1, 1)
    assert state(page, "active") == "object:1"


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
    assert rows(page).count() == 3 and page.locator("#graph .edge").count() <= 3
    page.locator("#reset").click()
    page.locator("#search").fill("beside DOG")
    shown = rows(page).locator(".words").all_inner_texts()
    assert shown and all("dog" in text and "beside" in text for text in shown)
    page.locator("#search").fill("no such thing")
    assert rows(page).count() == 0 and page.locator("#relations .empty").is_visible()


def test_keys(show):
    page = show([scene_item("first"), scene_item("second", seed=1)])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert state(page, "active") == "relation:1"
    page.keyboard.press("ArrowUp")
    assert state(page, "active") == "relation:0"
    page.keyboard.press("/")
    page.keyboard.type("npg")
    assert page.locator("#search").input_value() == "npg" and page.locator("#name").inner_text() == "first"
    page.keyboard.press("Escape")
    assert page.locator("#search").input_value() == "" and state(page, "active") == "" and rows(page).count() == 12
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
    assert rows(page).count() == 11 and state(page, "active") == ""
    page.locator("#graph .node").first.focus()
    page.keyboard.press("Enter")
    assert state(page, "active").startswith("object:")


def test_images_are_switched_by_their_thumbnails_and_by_address(show):
    items = [scene_item(name, seed=n, num_relations=4 + n) for n, name in enumerate("abc")]
    page = show(items, fragment="#image=2&relation=3")
    assert page.locator("#name").inner_text() == "b" and state(page, "active") == "relation:2"
    assert page.locator("#strip button").count() == 3
    page.locator("#strip button").nth(2).click()
    page.wait_for_selector("body[data-ready=true]")
    assert page.locator("#name").inner_text() == "c" and rows(page).count() == 6
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


@pytest.mark.parametrize("width, height", [(375, 760), (320, 568), (760, 375), (900, 700), (1280, 720), (1920, 1080)])
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
            return [...document.querySelectorAll("#graph text, #graph .node rect")].filter((e) => {
                const b = e.getBoundingClientRect();
                const hidden = getComputedStyle(e).visibility === "hidden";
                return !hidden && (b.left < frame.left - 1 || b.right > frame.right + 1 ||
                                   b.top < frame.top - 1 || b.bottom > frame.bottom + 1);
            }).map((e) => e.textContent || "rect");
        }""")
        assert outside == []
        page.keyboard.press("n")
        page.wait_for_selector("body[data-ready=true]")


@pytest.mark.parametrize("count", [3, 8, 15, 25])
@pytest.mark.parametrize("width", [375, 1280])
def test_nodes_and_labels_of_the_graph_do_not_overlap(show, count, width):
    page = show([scene_item(num_objects=count, num_relations=count + 5, size=(60, 100), seed=count)], width)
    boxes = page.evaluate("""() => [...document.querySelectorAll("#graph .node rect, #graph .edge:not(.crowded) text")]
        .map((e) => e.getBBox()).map((b) => [b.x, b.y, b.x + b.width, b.y + b.height])""")
    assert len(boxes) >= count * 0.9
    for n, a in enumerate(boxes):
        for b in boxes[:n]:
            # One pixel, since the boxes of letters are a little higher than the letters.
            assert not (a[0] < b[2] - 1 and b[0] < a[2] - 1 and a[1] < b[3] - 1 and b[1] < a[3] - 1), (a, b)


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
    assert page.locator("#shown").inner_text() == "5000 shown"
    assert page.locator("#relations .row").count() < 40 and page.locator("#graph .edge").count() <= 40
    page.evaluate(
        """() => { const list = document.getElementById("relations"); list.scrollTop = list.scrollHeight; }"""
    )
    page.wait_for_selector("#relations-4999:visible")
    page.locator("#relations-4999").hover()
    assert state(page, "active") == "relation:4999"
    assert page.locator("#relations .row").count() < 40, "rows are used again"
    # A hover that walked through all relations, or laid anything out anew, would take far longer.
    seconds = page.evaluate("""async () => {
        const rows = [...document.querySelectorAll("#relations .row:not([hidden])")];
        const frame = () => new Promise(requestAnimationFrame);
        const start = performance.now();
        for (let n = 0; n < 40; n++) {
            rows[n % rows.length].dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
            await frame();
        }
        return (performance.now() - start) / 1000;
    }""")
    assert seconds < 4, f"40 hovers took {seconds:.1f} s"
    assert page.evaluate("document.querySelectorAll('*').length") < 1500


def test_an_image_without_objects_or_relations(show):
    image = np.zeros((48, 64, 3), np.uint8)
    page = show([PageItem("a", image, SceneGraph(48, 64, [], []))])
    assert page.locator("#graph-note").inner_text() == "No relations to draw." and rows(page).count() == 0
    page.keyboard.press("ArrowDown")
    page.locator("#stage").hover()
    assert state(page, "active") == ""
    assert not page.locator("#strip").is_visible() and not page.locator("#image-nav").is_visible()
