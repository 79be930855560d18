"""What is in the page's file: masks, names, order, limits; what is refused."""

import base64
import hashlib
import json
import re

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from usg_psg.visualization import WEAK_SCORE, PageItem, PageWriter, write_page
from usg_psg.visualization.page import ASSETS, MAX_SIDE, SCRIPTS

from .scenes import random_scene

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>&amp;\u2028"


def read_page(path):
    """Every JSON script of a page by id."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', text, flags=re.DOTALL)
    return {name: json.loads(content) for name, content in found}


def item(name="a", **kwargs):
    image, graph, _ = random_scene()
    return PageItem(name, image, graph, **kwargs)


def test_masks_names_and_relations_arrive_as_they_are(tmp_path):
    image, graph, labels = random_scene()
    assert write_page(tmp_path / "page.html", [PageItem("a.jpg", image, graph)], "Title") == 1
    content = read_page(tmp_path / "page.html")
    (layer,) = content["item-0"]["layers"]
    assert content["item-0"]["size"] == list(image.shape[:2])
    for n, entry in enumerate(layer["objects"]):
        mask = coco_mask.decode({"size": content["item-0"]["size"], "counts": entry["mask"]})
        np.testing.assert_array_equal(mask, labels == n + 1)
    assert [entry["name"] for entry in layer["objects"]] == ["person 1", "grass 1", "dog", "person 2", "grass 2"]
    rows = zip(layer["subject"], layer["predicate"], layer["object"], layer["score"], strict=True)
    expected = [(r.subject, r.predicate, r.object, round(r.score, 4)) for r in graph.relations]
    assert [(s, layer["predicates"][p], o, score) for s, p, o, score in rows] == expected
    encoded = base64.b64decode(content["item-0"]["image"].split(",")[1])
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == image.shape


def test_large_images_shrink_together_with_their_masks(tmp_path):
    image, graph, labels = random_scene(size=(300, 2 * MAX_SIDE))
    write_page(tmp_path / "page.html", [PageItem("a", image, graph)], "Title")
    content = read_page(tmp_path / "page.html")["item-0"]
    assert content["size"] == [150, MAX_SIDE]
    for n, entry in enumerate(content["layers"][0]["objects"]):
        mask = coco_mask.decode({"size": content["size"], "counts": entry["mask"]})
        share = cv2.resize((labels == n + 1).astype(np.float32), (MAX_SIDE, 150), interpolation=cv2.INTER_AREA)
        assert mask[share == 1].all() and not mask[share == 0].any() and mask.any()


def test_only_the_first_relations_are_kept(tmp_path):
    write_page(tmp_path / "page.html", [item(marks=["hit"] * 12)], "Title", max_relations=3)
    (layer,) = read_page(tmp_path / "page.html")["item-0"]["layers"]
    assert len(layer["subject"]) == len(layer["mark"]) == len(layer["score"]) == 3 and layer["total"] == 12


def test_the_page_knows_its_threshold(tmp_path):
    write_page(tmp_path / "page.html", [item()], "Title")
    assert read_page(tmp_path / "page.html")["index"]["least"] == WEAK_SCORE == 0.02
    write_page(tmp_path / "page.html", [item()], "Title", score_threshold=0.3)
    index = read_page(tmp_path / "page.html")["index"]
    assert (index["least"], index["weak"]) == (0.3, WEAK_SCORE)


def test_annotation_is_a_second_layer_without_scores(tmp_path):
    truth = random_scene(seed=0)[1]
    write_page(tmp_path / "page.html", [item(truth=truth, truth_marks=["missed"] * 12, scores=False)], "Title")
    first, second = read_page(tmp_path / "page.html")["item-0"]["layers"]
    assert first["score"] is None and second["score"] is None
    assert first["mark"] is None and set(second["mark"]) == {"missed"}


def test_hostile_text_stays_text(tmp_path):
    image, graph, _ = random_scene(names=(HOSTILE,), predicates=(HOSTILE,))
    write_page(tmp_path / "page.html", [PageItem(HOSTILE, image, graph, note=HOSTILE)], HOSTILE)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 3 and "<img" not in text
    assert read_page(tmp_path / "page.html")["item-0"]["layers"][0]["predicates"] == [HOSTILE]


def test_file_names_that_are_not_utf8(tmp_path):
    write_page(tmp_path / "page.html", [item("caf\udce9.jpg")], "Graph of caf\udce9.jpg")
    content = read_page(tmp_path / "page.html")
    assert "<h1>Graph of caf\\udce9.jpg</h1>" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert content["index"]["items"][0]["name"] == content["item-0"]["name"] == "caf\\udce9.jpg"


def test_the_page_loads_nothing_and_runs_only_its_own_script(tmp_path):
    write_page(tmp_path / "page.html", [item()], "Title")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<link[^>]*href=\"(?!data:)|<script[^>]*src=|@import|url\(", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in script
    assert {f.name for f in ASSETS.iterdir()} == {*SCRIPTS, "page.html", "page.css"}


def test_images_are_listed_in_the_order_asked_for(tmp_path):
    with PageWriter(tmp_path / "page.html", "Title") as page:
        for name, order in (("c", 2), ("a", 0), ("b", 1)):
            page.add(item(name), order=order)
    content = read_page(tmp_path / "page.html")
    assert [entry["name"] for entry in content["index"]["items"]] == ["a", "b", "c"]
    assert all(content[entry["id"]]["name"] == entry["name"] for entry in content["index"]["items"])


def test_what_was_added_before_an_interrupt_is_on_the_page(tmp_path):
    with pytest.raises(KeyboardInterrupt), PageWriter(tmp_path / "page.html", "Title") as page:
        page.add(item("kept"))
        page._file.write(b'<script type="application/json" id="item-1">{"half')
        raise KeyboardInterrupt
    content = read_page(tmp_path / "page.html")
    assert set(content) == {"item-0", "index"} and content["index"]["items"][0]["name"] == "kept"
    assert [f.name for f in tmp_path.iterdir()] == ["page.html"]


def test_a_failure_leaves_the_old_page(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")

    def items():
        yield item()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_page(path, items(), "Title")
    with pytest.raises(ValueError, match="at least one image"):
        write_page(path, [], "Title")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_too_many_objects_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("usg_psg.visualization.page.MAX_OBJECTS", 4)
    with pytest.raises(ValueError, match="image 'b.jpg', objects: expected at most 4, got 5"):
        write_page(tmp_path / "page.html", [item("b.jpg")], "Title")


def test_items_that_do_not_fit_are_refused():
    image, graph, _ = random_scene()
    with pytest.raises(ValueError, match="'a': expected 48x64 as the graph says, got 47x64"):
        PageItem("a", image[1:], graph)
    with pytest.raises(ValueError, match="uint8 RGB"):
        PageItem("a", image[..., 0], graph)
    with pytest.raises(ValueError, match="'a', marks"):
        PageItem("a", image, graph, marks=["hit"])
    with pytest.raises(ValueError, match="'a', truth_marks"):
        PageItem("a", image, graph, truth_marks=["hit"])
    with pytest.raises(ValueError, match="max_relations"):
        write_page("never.html", [], "Title", max_relations=-1)
