"""The page in Chromium at any size: phones, themes, many relations, odd names and images."""

import numpy as np
import pytest

from usg_psg.masks import encode_mask
from usg_psg.scene_graph import SceneGraph, SceneObject, SceneRelation
from usg_psg.visualization import PageItem, class_color
from usg_psg.visualization.page_labels import page_labels

from .browser import rows, scene_item, wait_for
from .scenes import random_scene
from .test_page import HOSTILE


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
