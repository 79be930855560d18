"""Annotation beside prediction: a case worked by hand, agreement with the metrics, and what the picture says."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_hex

from usg_psg.evaluation import SGDetMetrics
from usg_psg.evaluation.matching import NEVER
from usg_psg.evaluation.worst_images import graph_of_annotation
from usg_psg.masks import encode_mask
from usg_psg.scene_graph import SceneGraph, SceneObject, SceneRelation
from usg_psg.visualization import compare_graphs, draw_comparison
from usg_psg.visualization.comparison import AMBER, GRAY, GREEN, RED
from usg_psg.vocabulary import Vocabulary

from ..evaluation.dataset import NUM_THINGS, model_output, with_map
from ..evaluation.samples import NUM_CLASSES, NUM_PREDICATES, random_ground_truth, random_prediction

PREDICATES = ("on", "beside", "riding")
NAMES = Vocabulary(
    tuple(f"thing{n}" for n in range(NUM_THINGS)),
    tuple(f"stuff{n}" for n in range(NUM_CLASSES - NUM_THINGS)),
    tuple(f"predicate{n}" for n in range(NUM_PREDICATES)),
)


def graph(relations, shift: int = 0, classes=(0, 1, 2)) -> SceneGraph:
    """Three stripes of ten columns each, moved to the right by `shift`; relations (subject, object, predicate)."""
    objects = []
    for n, c in enumerate(classes):
        mask = np.zeros((12, 40), bool)
        mask[:, 10 * n + shift : 10 * n + 10 + shift] = True
        objects.append(SceneObject(("person", "horse", "grass")[c], c, 0.9, c < 2, encode_mask(mask)))
    rows = [SceneRelation(s, o, PREDICATES[p], p, 1 - 0.1 * n) for n, (s, o, p) in enumerate(relations)]
    return SceneGraph(12, 40, objects, rows)


ANNOTATED = [(0, 1, 2), (1, 2, 0), (0, 2, 1), (0, 1, 2)]  # the last one repeats the first
PREDICTED = [(1, 2, 1), (0, 1, 2), (2, 0, 0), (0, 2, 1), (1, 2, 0)]


def test_worked_case():
    result = compare_graphs(graph(ANNOTATED), graph(PREDICTED, shift=2), k=3)
    assert [tuple(row) for row in result.triplets.tolist()] == PREDICTED[:3]
    assert result.hits.tolist() == [False, True, False] and result.near.tolist() == [True, False, False]
    assert result.ranks.tolist() == [1, NEVER, NEVER]
    result = compare_graphs(graph(ANNOTATED), graph(PREDICTED), k=9)
    assert len(result.triplets) == 4, "the pair (1, 2) has one predicate"
    assert result.ranks.tolist() == [1, NEVER, 3]


def test_masks_and_categories_decide():
    # Ten columns moved by four overlap by 6 / 14.
    assert compare_graphs(graph(ANNOTATED), graph(PREDICTED, shift=4), k=9).recall == 0
    assert compare_graphs(graph(ANNOTATED), graph(PREDICTED, classes=(1, 0, 2)), k=9).recall == 0
    empty = graph([])
    assert compare_graphs(graph(ANNOTATED), replace(empty, objects=[]), k=9).ranks.tolist() == [NEVER] * 3
    assert compare_graphs(replace(empty, objects=[]), graph(PREDICTED), k=9).hits.sum() == 0


def test_recall_is_that_of_the_metrics():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(60):
        gt = random_ground_truth(rng)
        if not len(gt.triplets):
            continue
        prediction = with_map(random_prediction(rng, gt), gt, rng)
        # A pair whose ends became one segment takes a rank in the metrics; a scene graph cannot have it.
        ends = prediction.mask_segment[prediction.triplets[:, :2]]
        triplets = prediction.triplets[(ends[:, 0] != ends[:, 1]) | (ends[:, 0] < 0)]
        prediction = replace(prediction, triplets=triplets, pairs=triplets[:, :2])
        k = int(rng.integers(1, 12))
        metrics = SGDetMetrics(NUM_PREDICATES, [n < NUM_THINGS for n in range(NUM_CLASSES)], ks=(k,))
        metrics.update(gt, prediction)
        predicted = SceneGraph.from_output(model_output(prediction), NAMES)
        result = compare_graphs(graph_of_annotation(gt, NAMES), predicted, k)
        recall = metrics.compute().metrics[f"single/R@{k}"]
        assert 100 * result.recall == pytest.approx(recall)
        found += result.found.sum()
    assert found > 20


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="expected 12x40, got 4x4"):
        compare_graphs(graph([]), SceneGraph(4, 4, [], []), 5)
    other = graph([(0, 1, 0)])
    other.relations[0].predicate = "under"
    with pytest.raises(ValueError, match="predicate_id 0 is 'under', but 'on'"):
        compare_graphs(graph(ANNOTATED), other, 5)
    with pytest.raises(ValueError, match="image: expected 12x40"):
        draw_comparison(np.zeros((5, 5, 3), np.uint8), graph([]), graph([]))


def texts(figure) -> list[tuple[str, str]]:
    return [(t.get_text(), to_hex(t.get_color())) for t in figure.axes[0].texts]


def test_the_picture_says_what_was_found(tmp_path):
    image = np.full((12, 40, 3), 200, np.uint8)
    figure = draw_comparison(image, graph(ANNOTATED), graph(PREDICTED), k=9, title="image 7")
    shown = texts(figure)
    assert ("Annotation: 2 of 3 relations found", "#000000") in shown
    assert ("Prediction: 2 annotated among the first 4", "#000000") in shown
    assert ("person riding horse", "#000000") in shown and ("2. person riding horse", "#000000") in shown
    assert ("rank 2", GREEN) in shown and ("missed", RED) in shown and ("rank 4", GREEN) in shown
    marks = [entry for entry in shown if entry[0] in "\u2713\u2717\u2260"]
    assert marks == [
        *[("\u2713", GREEN), ("\u2717", RED), ("\u2713", GREEN)],
        *[("\u2260", AMBER), ("\u2713", GREEN), ("\u2717", GRAY), ("\u2713", GREEN)],
    ]
    figure.savefig(tmp_path / "a.png")
    figure.savefig(tmp_path / "a.svg")
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    written = {"".join(t.itertext()).strip() for t in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"image 7", "missed", "1. horse beside grass"} <= written


def test_nothing_is_clipped_or_written_over_something_else():
    rng = np.random.default_rng(0)
    long = [(int(a), int(b), 0) for a, b in rng.permutation([(a, b) for a in range(3) for b in range(3) if a != b])]
    truth, predicted = graph(long), graph(long[:2])
    for obj in truth.objects:
        obj.label = obj.label * 30
    image = np.full((12, 40, 3), 200, np.uint8)
    for pair in ((truth, predicted), (predicted, truth), (graph([]), graph([]))):
        figure = draw_comparison(image, *pair, title="x" * 400)
        renderer = figure.canvas.get_renderer()
        boxes = np.array([t.get_window_extent(renderer).extents for t in figure.axes[0].texts if t.get_text()])
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= figure.bbox.size).all()
        width = np.minimum(boxes[:, None, 2], boxes[None, :, 2]) - np.maximum(boxes[:, None, 0], boxes[None, :, 0])
        height = np.minimum(boxes[:, None, 3], boxes[None, :, 3]) - np.maximum(boxes[:, None, 1], boxes[None, :, 1])
        shared = (width > 0) & (height > 0)
        np.fill_diagonal(shared, False)
        assert not shared.any()
