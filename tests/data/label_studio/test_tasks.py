"""Tasks and labelling interface beside the validator of Label Studio's own package."""

import copy

import numpy as np
import pytest

from usg_psg.data.label_studio import Region, Scene, labeling_config, read_scene, task_of
from usg_psg.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("person", 'a "cup" & <saucer>'), ("wall",), ("on", "in front of"))
DATA = {"image_id": "1", "file_name": "holiday/a b.jpg", "height": 4, "width": 6}


def scene() -> Scene:
    rows = np.arange(4)[:, None] + np.zeros(6)
    regions = [Region(str(i + 1), i, rows == i, 0.5) for i in range(3)]
    return Scene(regions, [(0, 1, 0), (0, 1, 1), (2, 1, 1)])


@pytest.mark.parametrize("kind", ["annotations", "predictions"])
def test_read_as_it_was_written(kind):
    task = task_of(DATA, scene(), VOCABULARY, kind, "s3://bucket/")
    assert task["data"] == {"image": "s3://bucket/holiday/a%20b.jpg", **DATA}
    found = read_scene(task[kind][0]["result"], VOCABULARY, (4, 6), "task 1")
    assert found.relations == scene().relations
    for region, expected in zip(found.regions, scene().regions, strict=True):
        assert (region.id, region.category_id) == (expected.id, expected.category_id)
        assert np.array_equal(region.mask, expected.mask)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["annotation", "prediction"])
def test_label_studio_accepts_them(kind):
    label_interface = pytest.importorskip("label_studio_sdk.label_interface", exc_type=ImportError)
    interface = label_interface.LabelInterface(labeling_config(VOCABULARY))
    interface.validate()
    (result,) = task_of(DATA, scene(), VOCABULARY, f"{kind}s", "")[f"{kind}s"]
    accepts = getattr(interface, f"validate_{kind}")
    assert accepts(result)
    foreign = copy.deepcopy(result)
    foreign["result"][0]["value"]["brushlabels"] = ["dog"]
    assert not accepts(foreign)
