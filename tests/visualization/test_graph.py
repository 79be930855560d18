"""Graph drawings: everything is shown, nothing covers anything else, and names agree with the other pictures."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch, Polygon

from usg_psg.masks import encode_mask
from usg_psg.scene_graph import SceneGraph, SceneObject, SceneRelation
from usg_psg.visualization import WEAK_SCORE, class_color, draw_graph
from usg_psg.visualization.geometry import shared_area

from .scenes import NAMES, random_graph, stripes


def extents(figure, kind) -> np.ndarray:
    """(n, 4) pixel boxes of all patches of a kind, as the renderer says."""
    renderer = figure.canvas.get_renderer()
    boxes = [p.get_window_extent(renderer).extents for p in figure.axes[0].patches if isinstance(p, kind)]
    return np.array(boxes).reshape(-1, 4)


def text_extents(figure) -> np.ndarray:
    renderer = figure.canvas.get_renderer()
    return np.array([t.get_window_extent(renderer).extents for t in figure.axes[0].texts])


def assert_readable(graph: SceneGraph) -> None:
    """Boxes apart and inside, each text inside its box, the head of each arrow outside all of them."""
    figure = draw_graph(graph)
    boxes, texts, heads = extents(figure, FancyBboxPatch), text_extents(figure), extents(figure, Polygon)
    pairs = {(r.subject, r.object) for r in graph.relations}
    assert len(heads) == len(pairs) and len(boxes) == len(texts) == len(pairs) + len({n for p in pairs for n in p})
    shared = shared_area(boxes, boxes, gap=2)
    assert (shared[~np.eye(len(boxes), dtype=bool)] == 0).all()
    width, height = figure.bbox.size
    everything = np.concatenate([boxes, texts, heads])
    assert (everything[:, :2] >= 0).all() and (everything[:, 2:] <= (width, height)).all()
    assert (texts[:, :2] >= boxes[:, :2]).all() and (texts[:, 2:] <= boxes[:, 2:]).all()


@pytest.mark.parametrize("seed", range(5))
def test_nothing_overlaps_and_nothing_is_clipped(seed):
    rng = np.random.default_rng(seed)
    for _ in range(2):
        nodes = int(rng.integers(2, 13))
        assert_readable(random_graph(rng, nodes, int(rng.integers(1, 21))))


def test_the_head_of_every_arrow_shows():
    graph = random_graph(np.random.default_rng(1), 9, 14)
    figure = draw_graph(graph)
    labels = extents(figure, FancyBboxPatch)[len({n for r in graph.relations for n in (r.subject, r.object)}) :]
    heads = extents(figure, Polygon)
    assert (np.diag(shared_area(heads, labels)) == 0).all()


def test_many_relations_and_a_relation_with_itself():
    assert_readable(random_graph(np.random.default_rng(0), 30, 70))
    graph = stripes(count=2)
    graph.relations.append(SceneRelation(1, 1, "beside", 1, 0.5))
    assert_readable(graph)


def test_components_lie_side_by_side():
    empty = encode_mask(np.zeros((4, 4), bool))
    objects = [SceneObject(NAMES[i % 7], i % 7, 0.9, True, empty) for i in range(9)]
    relations = [
        SceneRelation(3 * c + a, 3 * c + b, "on", 0, 0.5) for c in range(3) for a, b in ((0, 1), (1, 2), (2, 0))
    ]
    figure = draw_graph(SceneGraph(4, 4, objects, relations))
    boxes = extents(figure, FancyBboxPatch)
    whole = [
        np.concatenate([part[:, :2].min(axis=0), part[:, 2:].max(axis=0)])
        for c in range(3)
        for part in [boxes[[3 * c, 3 * c + 1, 3 * c + 2, 9 + 3 * c, 10 + 3 * c, 11 + 3 * c]]]
    ]
    shared = shared_area(np.array(whole), np.array(whole))
    assert (shared[~np.eye(3, dtype=bool)] == 0).all()


def test_names_and_colours_of_a_part_are_those_of_the_whole():
    graph = stripes()
    figure = draw_graph(SceneGraph(graph.height, graph.width, graph.objects, graph.relations[2:3]).top(1))
    assert [t.get_text() for t in figure.axes[0].texts] == ["person 2", "person 3", "standing on 0.70"]
    faces = {tuple(round(255 * c) for c in p.get_facecolor()[:3]) for p in figure.axes[0].patches}
    assert class_color("person") in faces


def test_relations_below_the_threshold_are_faint():
    graph = stripes(count=3)
    graph.relations = [SceneRelation(n, n + 1, "on", 0, score) for n, score in enumerate((WEAK_SCORE, 0.01))]
    for show_scores, expected in ((True, [1.0, 0.35]), (False, [1.0, 1.0])):
        axes = draw_graph(graph, show_scores).axes[0]
        heads = [p.get_alpha() for p in axes.patches if isinstance(p, Polygon)]
        assert heads == expected and [line.get_alpha() for line in axes.lines] == expected


def test_files(tmp_path):
    graph = stripes()
    graph.relations[0].predicate = "costs $5 and $6 <b>"  # neither mathematics nor mark-up
    figure = draw_graph(graph)
    for suffix in ("png", "svg", "pdf"):
        figure.savefig(tmp_path / f"graph.{suffix}")
    root = ElementTree.parse(tmp_path / "graph.svg").getroot()
    texts = ["".join(t.itertext()).strip() for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"grass", "person 3", "standing on 0.80", "costs $5 and $6 <b> 0.90"} <= set(texts)
    assert (tmp_path / "graph.png").stat().st_size > 1000
    first = (tmp_path / "graph.svg").read_bytes()
    draw_graph(graph).savefig(tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").read_bytes() == first


def test_scores_can_be_left_out_and_lines_of_one_pair_share_an_arrow():
    graph = stripes(count=2)
    graph.relations = [SceneRelation(0, 1, "on", 0, 0.5), SceneRelation(0, 1, "beside", 1, 0.4)]
    assert [t.get_text() for t in draw_graph(graph, show_scores=False).axes[0].texts][2:] == ["on\nbeside"]
    assert re.fullmatch(r"on 0\.50\nbeside 0\.40", draw_graph(graph).axes[0].texts[2].get_text())


def test_a_graph_without_relations_can_be_drawn():
    assert draw_graph(SceneGraph(4, 4, [], [])).axes[0].texts[0].get_text() == "no relations"
