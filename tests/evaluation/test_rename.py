"""Predictions in another numbering are brought into the annotations' by name."""

import json

import numpy as np
import pytest

from usg_psg.evaluation.inputs import Prediction
from usg_psg.evaluation.rename import rename_predictions
from usg_psg.vocabulary import Vocabulary

ANNOTATED = Vocabulary(("person", "cup"), ("wall",), ("on", "holding"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "words.json"
    names = {"thing_classes": ["dragon", "cup", "person"], "stuff_classes": ["wall"]}
    path.write_text(json.dumps(names | {"predicate_classes": ["holding", "on", "greeting"]}))
    return Vocabulary.read(path)


def prediction(labels, predicate) -> Prediction:
    masks = np.zeros((len(labels), 4, 4), dtype=bool)
    masks[range(len(labels)), range(len(labels))] = True
    return Prediction(
        labels=np.array(labels),
        triplets=np.array([[0, 1, predicate]]),
        triplets_ng=np.array([[1, 0, predicate]]),
        masks=masks,
        image_id="7",
    )


def test_numbers_are_found_by_name(file):
    given = prediction([1, 2, 3], 0)  # cup, person, wall; holding
    ((image_id, made),) = rename_predictions([("7", given)], file, ANNOTATED, "psg.json")
    assert image_id == "7" and made.labels.tolist() == [1, 0, 2]
    assert made.triplets.tolist() == [[0, 1, 1]] and made.triplets_ng.tolist() == [[1, 0, 1]]
    assert given.labels.tolist() == [1, 2, 3] and given.triplets.tolist() == [[0, 1, 0]], "the input is left alone"


@pytest.mark.parametrize(
    "labels, predicate, message",
    [
        ([0, 1], 0, "image '7', labels: 'dragon' of .*words.json is not a name of the annotations"),
        ([1, 2], 2, "image '7', triplets: 'greeting' of"),
        ([1, 4], 0, "image '7', labels: .*words.json has 4 names, got the id 4"),
    ],
)
def test_what_cannot_be_matched_is_named(file, labels, predicate, message):
    with pytest.raises(ValueError, match=message):
        list(rename_predictions([("7", prediction(labels, predicate))], file, ANNOTATED, "psg.json"))


def test_missing_names_are_listed(file):
    other = Vocabulary(("person", "horse"), (), ("on",))
    with pytest.raises(ValueError, match="lacks names of the data set 'psg.json': thing_classes horse"):
        list(rename_predictions([], file, other, "psg.json"))
