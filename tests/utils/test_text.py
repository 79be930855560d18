"""Names and numbers to show."""

from pathlib import Path

from usg_psg.scene_graph import SceneGraph
from usg_psg.utils.text import counted, display_names, short_paths

from ..visualization.scenes import stripes


def test_names_are_numbered_where_they_repeat():
    assert display_names(["person", "wall-other-merged", "person"]) == ["person 1", "wall", "person 2"]
    assert display_names(["water", "water-other"]) == ["water 1", "water 2"], "two categories, one name to the reader"


def test_numbered_names_are_not_those_of_other_categories():
    assert display_names(["person", "person", "person 2"]) == ["person 1", "person 3", "person 2"]
    assert display_names(["a 1", "a", "a", "a_1"]) == ["a 1 1", "a 1", "a 2", "a 1 2"]


def test_labels_of_a_graph_stay_with_its_objects():
    graph = stripes(count=4)
    assert [o.label for o in graph.objects] == ["grass", "person 1", "person 2", "person 3"]
    part = graph.top(3)
    part = SceneGraph(part.height, part.width, part.objects[2:], [])
    assert [o.label for o in part.objects] == ["person 2", "person 3"]
    assert SceneGraph.from_json(part.to_json()) == part


def test_numbers_agree_with_their_nouns():
    assert [counted(n, "relation") for n in range(3)] == ["0 relations", "1 relation", "2 relations"]


def test_files_are_shown_without_the_folders_that_all_share():
    paths = [Path("/home/me/a.jpg"), Path("/home/me/x/b.jpg"), Path("/home/me/y/b.jpg"), Path("b.jpg")]
    assert short_paths(paths) == ["a.jpg", "x/b.jpg", "y/b.jpg", "b.jpg"]
    assert short_paths([Path("/p/1/x/c"), Path("/p/2/x/c")]) == ["1/x/c", "2/x/c"]
    assert short_paths([Path("caf\udce9.jpg")]) == ["caf\\udce9.jpg"] and short_paths([]) == []


def test_files_without_labels_are_read():
    graph = stripes(count=3)
    text = graph.to_json()
    for thing in graph.objects:
        text = text.replace(f', "label": "{thing.label}"', "")
    assert "label" not in text
    assert SceneGraph.from_json(text) == graph
