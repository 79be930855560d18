"""Relations of objects that a user gives: arguments of the predictor, files for the demo, and their errors."""

import json

import numpy as np
import pytest
from PIL import Image

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import USGCheckpointer
from usg_psg.evaluation.given_objects import open_objects, read_upload
from usg_psg.masks import decode_masks, encode_masks
from usg_psg.predictor import SceneGraphPredictor
from usg_psg.scene_graph import SceneGraph
from usg_psg.visualization import draw_overlay
from usg_psg_cli import program

from .data.psg_files import content as psg_content
from .data.psg_files import record as psg_record
from .data.psg_files import write_images, write_json
from .programs import ROOT

RECIPE = "configs/quickstart/usg_par_quickstart.yaml"
PILOT = ["MODEL.USG.MASK_PILOT.ENABLED", "True", "TEST.USG.PREDCLS_QUERIES", "given"]
SIZE = (60, 80)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    generate_psg_shapes(root / "psg_shapes", num_train=1, num_val=1, size=(96, 128), preset="easy", seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        yield root


def predictor(*opts):
    options = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "64", *opts]
    return SceneGraphPredictor(build_cfg("quickstart/usg_par_quickstart.yaml", options), allow_random=True)


@pytest.fixture(scope="module")
def piloted(datasets):
    return predictor(*PILOT)


def image_and_masks():
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    masks = np.zeros((4, *SIZE), bool)
    masks[0, :, :40] = masks[1, 30:, 20:] = masks[2, 35:50, 25:60] = masks[3, 59, 79] = True  # 2 inside 1, 3 one pixel
    return image, masks


def test_the_graph_has_the_given_objects_and_relates_all_of_them(piloted):
    image, masks = image_and_masks()
    names = piloted.vocabulary.object_classes
    labels = [names[2], 0, np.int64(1), names[0]]
    graph = piloted(image, masks=masks, labels=labels)
    assert [o.category_id for o in graph.objects] == [2, 0, 1, 0]
    assert all(np.array_equal(o.mask_array(), mask) for o, mask in zip(graph.objects, masks, strict=True))
    assert {(r.subject, r.object) for r in graph.relations} == {(i, j) for i in range(4) for j in range(4) if i != j}
    scores = [r.score for r in graph.relations]
    assert scores == sorted(scores, reverse=True)
    assert piloted(image, masks=encode_masks(masks), labels=labels) == graph
    assert SceneGraph.from_json(graph.to_json()) == graph
    assert draw_overlay(image, graph).shape[2] == 3
    nothing = piloted(image, masks=masks[:0], labels=[])
    assert nothing.objects == nothing.relations == []


def test_models_without_a_pilot_take_masks_too(datasets):
    image, masks = image_and_masks()
    graph = predictor()(image, masks=masks, labels=[0, 1, 2, 0])
    assert len(graph.objects) == 4 and graph.relations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "labels: expected one for each object, got none"),
        ({"masks": None}, "masks: expected one for each object, got none"),
        ({"labels": [0, 1]}, "labels: expected 4, one for each mask, got 2"),
        ({"labels": [0, 1, 2, "persn"]}, r"labels\[3\]: 'persn' is not in the vocabulary; did you mean person"),
        ({"labels": [0, 1, 2, 1000]}, r"labels\[3\]: expected a name, or a number from 0 to \d+, got 1000"),
        ({"labels": [0, 1, 2, 0.5]}, r"labels\[3\]: expected a name, or a number"),
        ({"masks": np.ones((4, 60, 81), bool)}, r"masks: expected height and width \(60, 80\), got \(60, 81\)"),
        ({"masks": np.ones((4, *SIZE)) / 2}, "masks: expected bool or 0/1 values"),
        ({"masks": np.arange(4)[:, None, None] * np.ones(SIZE) % 2 == 1}, r"masks\[0\]: expected at least one pixel"),
        ({"masks": [{"size": [60, 80]}] * 4}, r"masks\[0\]: expected run lengths with size and counts"),
    ],
)
def test_what_does_not_fit_is_named(piloted, change, message):
    image, masks = image_and_masks()
    with pytest.raises(ValueError, match=message):
        piloted(image, **{"masks": masks, "labels": [0, 1, 2, 0], **change})


def test_given_queries_need_a_model_that_has_them(datasets):
    with pytest.raises(ValueError, match=r"PREDCLS_QUERIES: 'given' needs MODEL\.USG\.MASK_PILOT\.ENABLED True"):
        predictor("MODEL.USG.MASK_PILOT.ENABLED", "False", "TEST.USG.PREDCLS_QUERIES", "given")


def test_objects_of_a_psg_file(tmp_path):
    records = [psg_record("1"), psg_record("2")]
    for entry in records:
        write_images(tmp_path / "coco", entry)
    (tmp_path / "psg").mkdir()
    find = open_objects(write_json(tmp_path / "psg", psg_content(records, ["2"])))
    for stem in ("1", "2"):
        masks, labels = find(stem)
        masks = decode_masks(masks)
        assert labels == ["person", "person", "cup", "wall"] and masks.shape == (4, 48, 64)
        assert masks.any((1, 2)).all() and not (masks.sum(0) > 1).any()
    with pytest.raises(ValueError, match=r"psg\.json has no image file 'other'"):
        find("other")
    records[0]["relations"] = [[0, 9, 0]]
    broken = open_objects(write_json(tmp_path, psg_content(records, [])), tmp_path / "coco")
    with pytest.raises(ValueError, match="'1': the record has errors"):
        broken("1")


def test_objects_of_predictions_and_scene_graphs(piloted, tmp_path):
    image, masks = image_and_masks()
    graph = piloted(image, masks=masks, labels=[0, 1, 2, 0])
    (tmp_path / "photo.json").write_text(graph.to_json())
    for source in (tmp_path, tmp_path / "photo.json"):
        found, labels = open_objects(source)("photo")
        assert np.array_equal(decode_masks(found), masks) and labels == [o.name for o in graph.objects]
    with pytest.raises(ValueError, match=r"there is no file .*other\.json"):
        open_objects(tmp_path)("other")
    instances = [{"category_id": n, "score": 1.0, "segmentation": rle} for n, rle in enumerate(encode_masks(masks[:2]))]
    entry = {"image_id": "42", "height": 60, "width": 80, "instances": instances, "relations": []}
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({"format": "usg_psg_predictions", "version": 1, "images": [entry]}))
    found, labels = open_objects(path)("000000000042")
    assert labels == [0, 1] and np.array_equal(decode_masks(found), masks[:2])
    with pytest.raises(ValueError, match="has no image '43'"):
        open_objects(path)("43")
    path.write_text("[]")
    with pytest.raises(ValueError, match="tells its images by their position"):
        open_objects(path)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        open_objects(tmp_path / "none.json")


@pytest.fixture
def brought(tmp_path):
    """A PSG file and one of predictions, both of images 7 and 8, and the PNG of the first, all in one folder."""
    files, prefix = tmp_path / "brought", "../../panoptic_train2017"
    files.mkdir()
    records = [psg_record("07"), psg_record("08")]
    write_images(tmp_path, records[0])
    (tmp_path / records[0]["pan_seg_file_name"]).rename(files / "07.png")
    write_json(files, psg_content([{**x, "pan_seg_file_name": f"{prefix}/{x['image_id']}.png"} for x in records], []))
    segments = records[0]["segments_info"]
    results = [{"image_id": n, "file_name": f"{prefix}/0{n}.png", "segments_info": segments} for n in (7, 8)]
    (files / "coco.json").write_text(json.dumps({"annotations": results}))
    return files


def test_objects_of_files_that_a_visitor_brings(brought, tmp_path):
    png = brought / "07.png"
    for name, labels in (("psg.json", ["person", "person", "cup", "wall"]), ("coco.json", [0, 0, 1, 2])):
        (tmp_path / name).mkdir()
        masks, found = read_upload([png, brought / name], "07", tmp_path / name)
        assert found == labels and decode_masks(masks).shape == (4, 48, 64)


@pytest.mark.parametrize(
    ("names", "stem", "message"),
    [
        (["07.png"], "07", "expected one JSON file, beside it the panoptic PNG that it names, got 07.png"),
        (["psg.json", "coco.json"], "07", "expected one JSON file, .* got psg.json, coco.json"),
        (["psg.json"], "07", "07.png .*: there is no such file"),
        (["coco.json"], "7", "coco.json, image '7': .*07.png: there is no such file"),
        (["psg.json", "07.png"], "09", "psg.json has no image file '09'"),
        (["coco.json", "07.png"], "09", "coco.json has no image '09'"),
        (["cut.json"], "07", "cut.json is not a complete JSON file"),
        (["deep.json"], "07", "deep.json is not a complete JSON file"),
        (["list.json"], "07", "list.json tells its images by their position"),
        (["archive.zip"], "07", "expected one JSON file"),
    ],
)
def test_files_that_a_visitor_brings_and_that_do_not_do(brought, tmp_path, names, stem, message):
    (brought / "cut.json").write_text('{"data": [')
    (brought / "deep.json").write_text("[" * 100_000)
    (brought / "list.json").write_text("[]")
    (tmp_path / "copies").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_upload([brought / name for name in names], stem, tmp_path / "copies")


def test_the_demo_relates_given_objects(piloted, datasets, tmp_path, capsys):
    image, masks = image_and_masks()
    for name in ("a", "b"):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    given = tmp_path / "given"
    given.mkdir()
    graph = piloted(image, masks=masks, labels=[0, 1, 2, 0])
    (given / "a.json").write_text(graph.to_json())
    USGCheckpointer(piloted.model, str(tmp_path)).save("model")
    options = ["MODEL.WEIGHTS", str(tmp_path / "model.pth"), "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "64", *PILOT]
    output = tmp_path / "out"
    arguments = ["--config-file", str(ROOT / RECIPE), "--input", str(tmp_path), "--output", str(output)]
    assert program("demo")([*arguments, "--masks", str(given), "--opts", *options]) == 1
    assert "b.png: left out: --masks: there is no file" in capsys.readouterr().err
    assert SceneGraph.from_json((output / "a.json").read_text()) == graph
