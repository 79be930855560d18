"""What reading a scene graph refuses, by the name of the field."""

import json

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
