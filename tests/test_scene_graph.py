"""What reading a scene graph refuses, by the name of the field."""

import json
import sys

import numpy as np
import pytest

from usg_psg.masks import encode_mask
from usg_psg.scene_graph import SceneGraph

from .visualization.scenes import blobs, random_graph, stripes


def changed(**fields) -> str:
    """JSON of a graph of 60 x 80 pixels whose object 1 has other fields; None takes one away."""
    data = json.loads(stripes().to_json())
    thing = data["objects"][1]
    for name, value in fields.items():
        if value is None:
            del thing[name]
        else:
            thing[name] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"name": 5}, "object 1, name: expected str, got int"),
        ({"label": ["a"]}, "object 1, label: expected str, got list"),
        ({"score": "high"}, "object 1, score: expected float, got str"),
        ({"isthing": None}, "object 1: missing or unknown fields: .*isthing"),
        ({"colour": "red"}, "object 1: missing or unknown fields: .*colour"),
        ({"mask": "abc"}, "object 1, mask: expected dict, got str"),
    ],
)
def test_fields_of_another_type_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SceneGraph.from_json(changed(**fields))


def test_other_things_than_records_are_refused():
    data = json.loads(stripes().to_json())
    for name, value, message in (
        ("height", "60", "height: expected int, got str"),
        ("objects", None, "objects: expected list, got NoneType"),
        ("relations", [3], "relation 0: missing or unknown fields"),
        ("relations", [{**data["relations"][0], "subject": 0.5}], "relation 0, subject: expected int, got float"),
    ):
        with pytest.raises(ValueError, match=message):
            SceneGraph.from_json(json.dumps({**data, name: value}))


def short_and_long() -> list[str]:
    """Run lengths of masks with other numbers of pixels than 60 x 80."""
    return [encode_mask(np.ones((height, 80), bool))["counts"] for height in (59, 61)]


@pytest.mark.parametrize("counts", [None, 5, [0, 4799], "", "0", "~", "é", "P", *short_and_long()])
def test_masks_that_do_not_fill_the_picture_are_refused(counts):
    mask = {"size": [60, 80]} if counts is None else {"size": [60, 80], "counts": counts}
    with pytest.raises(ValueError, match=r"mask of object\[1\]: (expected|counts)"):
        SceneGraph.from_json(changed(mask=mask))


def test_masks_of_any_shape_are_read():
    rng = np.random.default_rng(0)
    noise = stripes(count=1)
    noise.objects[0].mask = encode_mask(rng.random((60, 80)) < 0.5)
    whole = stripes(count=1)
    for graph in (noise, whole, blobs(rng, 90, 130, 12), random_graph(rng, 5, 9)):
        assert SceneGraph.from_json(graph.to_json()) == graph


def relations_of(graph: SceneGraph) -> list[tuple[int, int]]:
    return [(relation.subject, relation.object) for relation in graph.relations]


def test_supervision():
    supervision = pytest.importorskip("supervision")
    graph = stripes()
    found = graph.to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == len(graph.objects) > 1
    assert np.array_equal(found.mask, [obj.mask_array() for obj in graph.objects])
    assert found.class_id.tolist() == [obj.category_id for obj in graph.objects]
    assert found["class_name"].tolist() == [obj.name for obj in graph.objects]
    assert [(r["subject"], r["object"]) for r in found.metadata["relations"]] == relations_of(graph)
    x0, y0, x1, y1 = found.xyxy[0].astype(int)
    assert found.mask[0][y0:y1, x0:x1].sum() == found.mask[0].sum()
    assert found.mask[0][y0:y1, x0].any() and found.mask[0][y1 - 1, x0:x1].any()
    image = np.zeros((graph.height, graph.width, 3), dtype=np.uint8)
    assert supervision.MaskAnnotator().annotate(image.copy(), found).any()
    assert len(SceneGraph(6, 8, [], []).to_supervision()) == 0


def test_fiftyone():
    fiftyone = pytest.importorskip("fiftyone")
    graph = stripes()
    sample = graph.to_fiftyone("photo.jpg")
    assert isinstance(sample, fiftyone.Sample) and sample.filepath.endswith("photo.jpg")
    sample = fiftyone.Sample.from_json(sample.to_json())  # as its database stores it
    for obj, found in zip(graph.objects, sample.objects.detections, strict=True):
        segmentation = found.to_segmentation(frame_size=(graph.width, graph.height))
        assert np.array_equal(segmentation.mask > 0, obj.mask_array())
        assert (found.label, found.confidence, found.name) == (obj.name, obj.score, obj.label)
    found = sample.relations.classifications
    assert [(relation.subject, relation.object) for relation in found] == relations_of(graph)
    first, objects = graph.relations[0], graph.objects
    assert found[0].label == first.predicate and found[0].confidence == first.score
    assert found[0].triplet == f"{objects[first.subject].label} {first.predicate} {objects[first.object].label}"


@pytest.mark.parametrize("name", ["supervision", "fiftyone"])
def test_a_missing_package(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    arguments = ["photo.jpg"] if name == "fiftyone" else []
    with pytest.raises(ValueError, match=rf"to_{name} needs {name}: pip install 'usg_psg\[{name}\]'"):
        getattr(stripes(), f"to_{name}")(*arguments)
