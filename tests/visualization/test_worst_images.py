"""Pictures of the worst images of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from usg_psg.data import unregister_psg
from usg_psg.data.register_psg import get_vocabulary
from usg_psg.evaluation import Prediction, SGDetEvaluator
from usg_psg.evaluation.image_match import ImageMatch
from usg_psg.evaluation.worst_images import WorstImages
from usg_psg.visualization import compare_graphs, draw_evaluation

from ..evaluation.dataset import model_output, register, with_map, write_dataset
from ..evaluation.samples import perfect_prediction

NAME = "draw_worst_images_test"


@pytest.fixture
def dataset(tmp_path):
    json_file, scenes = write_dataset(tmp_path, 9)
    register(NAME, json_file)
    for n, (image_id, (gt, _)) in enumerate(scenes.items()):
        if n % 2:
            prediction = perfect_prediction(gt)
            prediction.triplets = prediction.triplets[: 1 + n // 2]
            prediction.mask_scores = np.ones(len(gt.labels))
            scenes[image_id] = (gt, prediction)
        if image_id != "folder/7":  # its photograph is missing
            path = tmp_path / "coco" / "train2017" / f"{n}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((*gt.label_map.shape, 3), 128, np.uint8)).save(path)
    yield scenes
    unregister_psg(NAME)


def test_an_evaluation_draws_its_worst_images(dataset, tmp_path, caplog):
    out = tmp_path / "out"
    evaluator, folder = SGDetEvaluator(NAME, str(out), keep_worst=8, draw=draw_evaluation), out / f"pictures_{NAME}"
    for evaluated in ({}, dataset):  # the first time another model, which is wrong about every image
        evaluator.reset()
        for image_id, (gt, prediction) in dataset.items():
            if not evaluated:
                prediction = Prediction(prediction.labels[::-1], prediction.triplets[:0], prediction.masks)
                prediction = with_map(prediction, gt, np.random.default_rng(0))
            evaluator.process([{"image_id": image_id}], [model_output(prediction)])
        evaluator.evaluate()
        if not evaluated:
            first = {path.name for path in folder.iterdir()}
            (folder / "notes.txt").touch()
    written = sorted(path.name for path in folder.glob("*.png"))
    assert not first <= set(written) and (folder / "notes.txt").exists()
    order = [image.image_id for image in evaluator.worst.images]
    expected = [f"{n:03d}_{image_id}.png" for n, image_id in enumerate(order, start=1) if image_id != "folder/7"]
    assert written == expected and len(written) == 7
    assert "no drawing of image folder/7" in caplog.text
    assert Image.open(folder / written[0]).width > 1000
    assert (out / f"plots_{NAME}" / "recall_over_k.png").exists()


def test_a_picture_shows_the_recall_of_its_title(dataset):
    """Also where a pair whose ends became one segment took a rank, though no graph has it."""
    worst, merged = WorstImages(20, get_vocabulary(NAME), k=3), 0
    for gt, prediction in dataset.values():
        worst.add(ImageMatch(gt, prediction), model_output(prediction))
    for image in worst.images:
        errors = compare_graphs(image.annotation, image.prediction, image.shown)
        assert errors.recall == pytest.approx(image.recall)
        merged += image.shown < len(dataset[image.image_id][1].segment_triplets()[0][:3])
    assert merged > 0


def test_drawing_needs_a_folder(dataset):
    with pytest.raises(ValueError, match="output_dir"):
        draw_evaluation(SGDetEvaluator(NAME))
