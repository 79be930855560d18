"""Scene graphs from model output, to JSON and back; the demo program on good and bad files."""

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import USGCheckpointer
from usg_psg.engine.training_record import TrainingRecord
from usg_psg.inference import make_instances
from usg_psg.masks import encode_mask
from usg_psg.predictor import SceneGraphPredictor
from usg_psg.scene_graph import SceneGraph
from usg_psg.visualization import draw_overlay
from usg_psg.vocabulary import Vocabulary

from .programs import ROOT, run

CONFIG = "configs/quickstart/usg_par_quickstart.yaml"


def output():
    """Three instances, the first two of which became one stuff segment; the third is a thing; a fourth has none."""
    panoptic = torch.tensor([[1, 1, 2], [1, 0, 2]], dtype=torch.int32)
    masks = torch.stack([panoptic == 1, panoptic == 1, panoptic == 2, panoptic == 2])
    relations = {
        "subject": torch.tensor([2, 2, 0, 3, 2]),
        "object": torch.tensor([0, 1, 1, 0, 0]),
        "predicate": torch.tensor([1, 1, 0, 0, 0]),
        "score": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]),
    }
    return {
        "instances": make_instances(
            masks, torch.tensor([1, 1, 0, 0]), torch.tensor([0.9, 0.8, 0.7, 0.2]), torch.tensor([1, 1, 2, 0])
        ),
        "panoptic_seg": (
            panoptic,
            [
                {"id": 1, "category_id": 1, "isthing": False, "score": 0.9},
                {"id": 2, "category_id": 0, "isthing": True, "score": 0.7},
            ],
        ),
        "relations": relations,
    }


def graph():
    return SceneGraph.from_output(output(), Vocabulary(("person",), ("grass-merged",), ("over", "standing on")))


def test_graph_is_between_panoptic_segments():
    made = graph()
    assert [(o.name, o.isthing) for o in made.objects] == [("grass-merged", False), ("person", True)]
    assert made.objects[0].mask_array().tolist() == [[True, True, False], [True, False, False]]
    rows = [(r.subject, r.object, r.predicate, round(r.score, 2)) for r in made.relations]
    assert rows == [(1, 0, "standing on", 0.9), (1, 0, "over", 0.5)], "one row per segment pair and predicate"
    assert len(made.constrained().relations) == 1


def test_top_filters_relations_and_keeps_the_objects():
    made = graph()
    assert [len(made.top(count).relations) for count in (0, 1, None)] == [0, 1, 2]
    assert made.top(0).objects == made.top(1).objects == made.objects, "a picture of it still has every mask"
    assert [r.predicate for r in made.top(score_threshold=0.6).relations] == ["standing on"]


def test_json_round_trip():
    made = graph()
    assert SceneGraph.from_json(made.to_json()) == made
    assert json.loads(made.to_json()).items() >= asdict(made).items()
    made.objects[0].note = "of the caller"  # no field, so left out
    assert SceneGraph.from_json(made.to_json()) == made
    made.objects[0].score = torch.tensor(0.5)
    with pytest.raises(TypeError):
        made.to_json()


@pytest.mark.parametrize(
    "text, message",
    [("{", "not JSON"), ("[]", "not a scene graph"), ('{"format": "usg_psg scene graph", "version": 9}', "version 9")],
)
def test_other_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        SceneGraph.from_json(text)


def test_relations_that_point_nowhere_are_refused():
    made = graph()
    made.relations[0].object = 7
    with pytest.raises(ValueError, match="relation 0"):
        SceneGraph.from_json(made.to_json())


def test_masks_of_another_size_are_refused():
    made = graph()
    made.objects[1].mask = encode_mask(np.zeros((9, 9), bool))
    with pytest.raises(ValueError, match="object 1: its mask is not of the graph's size, 2x3"):
        SceneGraph.from_json(made.to_json())


def test_networkx():
    made = graph().to_networkx()
    assert made.nodes[1]["name"] == "person"
    assert {data["predicate"] for *_, data in made.edges(data=True)} == {"standing on", "over"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    generate_psg_shapes(root / "psg_shapes", num_train=1, num_val=2, size=(96, 128), preset="easy", seed=0)
    return root


@pytest.fixture
def cfg(shapes, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes))
    return build_cfg("quickstart/usg_par_quickstart.yaml", ["MODEL.DEVICE", "cpu", "TEST.USG.OBJECT_THRESHOLD", "0.0"])


def test_predictor_gives_masks_of_the_image_size(cfg):
    with pytest.raises(ValueError, match="MODEL.WEIGHTS"):
        SceneGraphPredictor(cfg)
    missing = cfg.clone()
    missing.MODEL.WEIGHTS = "/nonexistent/model.pth"
    with pytest.raises(FileNotFoundError, match="MODEL.WEIGHTS: there is no file /nonexistent/model.pth"):
        SceneGraphPredictor(missing)
    predictor = SceneGraphPredictor(cfg, allow_random=True)
    assert predictor.batch([]) == []
    images = [np.random.randint(0, 256, size, dtype=np.uint8) for size in [(50, 70, 3), (120, 64, 3)]]
    for image, single in zip(images, predictor.batch(images), strict=True):
        assert (single.height, single.width) == image.shape[:2]
        for thing in single.objects:
            assert thing.mask_array().shape == image.shape[:2]
        assert draw_overlay(image, single).shape[2] == 3


def test_predictor_takes_paths_pil_images_and_arrays(cfg, tmp_path):
    predictor = SceneGraphPredictor(cfg, allow_random=True)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    turned = Image.Exif()
    turned[0x0112] = 6  # stored on its side, as by a camera held upright
    Image.fromarray(np.rot90(pixels).copy()).save(path, exif=turned)
    with Image.open(path) as opened:
        found = predictor.batch([pixels, path, opened, Image.fromarray(pixels)])
    found.append(predictor(str(path)))
    assert (found[0].height, found[0].width) == (48, 64) and all(each == found[0] for each in found[1:4])
    assert (found[4].height, found[4].width) == (48, 64)
    assert predictor(Image.fromarray(pixels[:, :, 0])).height == 48, "gray"
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        predictor(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.jpg: not a readable image"):
        predictor(tmp_path / "text.jpg")


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((4, 4), np.uint8), r"ndarray \(4, 4\) uint8"),
        (np.zeros((4, 4, 3), np.float32), r"ndarray \(4, 4, 3\) float32"),
        (torch.zeros(3, 4, 4), r"Tensor torch.Size\(\[3, 4, 4\]\) torch.float32"),
        (None, "NoneType"),
        ([], "list"),
    ],
)
def test_other_images_are_refused_by_name(image, got, monkeypatch):
    monkeypatch.setattr(SceneGraphPredictor, "__init__", lambda self: None)
    with pytest.raises(ValueError, match=f"image: expected a path, a PIL image or .* array, got {got}"):
        SceneGraphPredictor()(image)
    for single in ("photo.jpg", Path("photo.jpg")):
        with pytest.raises(ValueError, match="expected a list of images, got one, 'photo.jpg'"):
            SceneGraphPredictor().batch(single)


def test_network_gets_the_channels_in_the_order_that_it_was_trained_with(cfg):
    image = np.random.randint(0, 256, (64, 64, 3), dtype=np.uint8)
    predictor = SceneGraphPredictor(cfg, allow_random=True)
    seen = predictor.prepare(image)["image"]
    predictor.cfg.INPUT.FORMAT = "BGR"
    assert torch.equal(seen, predictor.prepare(image)["image"].flip(0))


def test_network_sees_the_image_s_pixels_however_they_lie_in_memory(cfg):
    predictor = SceneGraphPredictor(cfg, allow_random=True)
    short, high = predictor.resize.resize.short_edge_length[0], predictor.resize.resize.max_size
    down, right = np.meshgrid(np.linspace(0, 255, short), np.linspace(0, 200, high), indexing="ij")
    image = np.stack((down, right, (down + right) / 2), axis=-1).astype(np.uint8)
    image.flags.writeable = False  # as Pillow's are
    flipped = np.asfortranarray(image)[:, ::-1, ::-1]
    larger = np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = [predictor.prepare(each) for each in (image, flipped, larger)]
    same, turned, smaller = (x["image"] for x in seen)
    assert [x.shape for x in (same, turned, smaller)] == [(3, short, high)] * 3
    assert torch.equal(same, torch.tensor(image).permute(2, 0, 1))
    assert torch.equal(turned, same.flip(0, 2))
    assert (smaller.float() - same.float()).abs().max() < 3, "reduced to the size of the others, in the same place"
    assert [(x["height"], x["width"]) for x in seen] == [(short, high)] * 2 + [(2 * short, 2 * high)]


def scores(graph):
    return [x.score for x in (*graph.objects, *graph.relations)]


def same_graph(found, wanted):
    """Equal but for rounding, which may move a few pixels and swap relations of equal scores."""
    close = [abs(a - b) < 1e-4 for a, b in zip(scores(found), scores(wanted), strict=True)]
    pixels = [np.mean(a.mask_array() != b.mask_array()) for a, b in zip(found.objects, wanted.objects, strict=True)]
    names = [x.name for x in found.objects] == [x.name for x in wanted.objects]
    return (
        names
        and all(close)
        and max(pixels, default=0) < 0.01
        and (found.height, found.width)
        == (
            wanted.height,
            wanted.width,
        )
    )


SIZES = [(48, 64), (64, 48), (47, 64), (90, 90), (64, 48), (48, 64), (30, 64), (90, 90), (48, 63)]


@pytest.fixture
def varied(cfg):
    """A predictor whose random weights find several objects, and images of several sizes."""
    torch.manual_seed(1)
    cfg.TEST.USG.OVERLAP_THRESHOLD, cfg.INPUT.MIN_SIZE_TEST = 0.0, 64
    predictor = SceneGraphPredictor(cfg, allow_random=True)
    with torch.no_grad():
        predictor.model.mask_decoder.mask_embed.layers[-1].weight.mul_(40)
    generator = np.random.default_rng(0)
    return predictor, [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def test_a_batch_gives_the_graphs_of_its_images_alone(varied, monkeypatch):
    """Images share a pass only where padding is that of the image alone: more would change what the network sees."""
    predictor, images = varied
    alone = [predictor(image) for image in images]
    assert min(len(graph.relations) for graph in alone) > 5
    passes, forward = [], predictor.model.forward

    def counted(inputs, **options):
        passes.append(len(inputs))
        return forward(inputs, **options)

    monkeypatch.setattr(predictor.model, "forward", counted)
    assert all(map(same_graph, predictor.batch(images), alone))
    assert sorted(passes) == [1, 2, 2, 4], "47 and 63 pixels are padded as 48 and 64 are"


def test_a_stream_gives_every_image_once(varied, tmp_path):
    predictor, images = varied
    alone = [predictor(image) for image in images]
    files = [tmp_path / f"{n}.png" for n in range(len(images))]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image).save(file)
    files[2].write_text("no image")
    for batch_size, threads in ((1, 1), (3, 2), (20, 4)):
        found = list(predictor.stream(iter([*files, images[0], tmp_path / "none.png"]), batch_size, threads))
        assert sorted(x.index for x in found) == list(range(len(files) + 2))
        assert batch_size > 1 or [x.index for x in found] == list(range(len(files) + 2)), "in order"
        broken = {x.index: x.error for x in found if x.error}
        assert set(broken) == {2, 10} and "2.png: not a readable image" in str(broken[2])
        for x in found:
            if x.error is None:
                assert np.array_equal(x.image, images[x.index % 9]) and same_graph(x.graph, alone[x.index % 9])


def test_a_stream_reads_ahead_but_not_everything(varied):
    """An endless folder begins at once, and what waits is bounded."""
    predictor, images = varied
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield images[len(taken) % 9]

    stream = predictor.stream(endless(), batch_size=2, threads=1)
    for _ in range(20):
        next(stream)
    stream.close()
    assert len(taken) < 20 + 2 * 16 + 10


def test_predictor_takes_its_names_from_a_vocabulary_file(cfg, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nonexistent")  # no data set is needed
    cfg.MODEL.USG.VOCABULARY = str(ROOT / "configs" / "vocabularies" / "example.yaml")
    predictor = SceneGraphPredictor(cfg, allow_random=True)
    graph = predictor(np.random.randint(0, 256, (96, 128, 3), dtype=np.uint8))
    assert len(predictor.model.object_text) == 8 and len(predictor.model.predicate_text) == 6
    names = predictor.vocabulary.object_classes
    assert graph.objects and all(thing.name == names[thing.category_id] for thing in graph.objects)
    assert {thing.name for thing in graph.objects if not thing.isthing} <= {"counter", "floor", "wall"}
    assert predictor.vocabulary.predicate_classes[4] == "on"
    assert cfg.DATASETS.TEST, "the caller's configuration is left alone"


def test_predictor_takes_another_vocabulary(cfg):
    predictor = SceneGraphPredictor(cfg, allow_random=True)
    own = predictor.own_vocabulary
    assert predictor.vocabulary == own and len(predictor.model.object_text) == len(own.object_classes)
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    predictor.set_vocabulary(Vocabulary(("teapot", "broom"), ("mud",), ("eats",)))
    assert predictor.model.is_thing.tolist() == [True, True, False] and len(predictor.model.predicate_text) == 1
    made = predictor(image)
    assert made.objects and {o.name for o in made.objects} <= {"teapot", "broom", "mud"}
    with pytest.raises(ValueError, match="at least one name"):
        predictor.set_vocabulary(Vocabulary(("teapot",), (), ()))
    assert predictor.vocabulary.predicate_classes == ("eats",), "a refused vocabulary changes nothing"


def warnings_of(caplog) -> list[str]:
    texts = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and r.name.startswith("usg_psg")]
    caplog.clear()
    return texts


def test_predictor_says_once_what_its_model_was_not_trained_for(cfg, tmp_path, caplog):
    made = SceneGraphPredictor(cfg, allow_random=True)
    (text,) = warnings_of(caplog)
    assert "has random weights" in text
    with torch.no_grad():
        next(made.model.backbone.parameters()).add_(1e-3)
    training = TrainingRecord.from_config(build_cfg("quickstart/usg_par_quickstart.yaml"))
    for name, trained_on in (("bare", None), ("full", training)):
        USGCheckpointer(made.model, str(tmp_path), trained_on=trained_on).save(name)

    cfg.MODEL.WEIGHTS = str(tmp_path / "bare.pth")
    bare = SceneGraphPredictor(cfg)
    assert not warnings_of(caplog), "old checkpoints do not tell"
    bare.set_vocabulary(Vocabulary(("teapot",), ("mud",), ("eats",)))
    (text,) = warnings_of(caplog)
    assert text.startswith("3 of 3 names (teapot, mud, eats) were not in training") and "random weights" in text
    bare.set_vocabulary(bare.own_vocabulary)
    bare.set_vocabulary(Vocabulary(("teapot",), ("mud",), ("eats",)))
    assert not warnings_of(caplog)

    cfg.MODEL.WEIGHTS = str(tmp_path / "full.pth")
    SceneGraphPredictor(cfg)
    (text,) = warnings_of(caplog)
    assert "generated drawings alone (psg_shapes_train)" in text
    cfg.MODEL.USG.VOCABULARY = str(ROOT / "configs" / "vocabularies" / "example.yaml")
    SceneGraphPredictor(cfg)
    assert [text.startswith("14 of 14 names (") for text in warnings_of(caplog)] == [False, True]


def test_demo_writes_results_and_goes_on_after_a_broken_file(shapes, cfg, tmp_path):
    weights = tmp_path / "weights"
    USGCheckpointer(SceneGraphPredictor(cfg, allow_random=True).model, str(weights)).save("model")
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.random.randint(0, 256, (48, 64), dtype=np.uint8)).save(folder / "gray.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    command = ["tools/demo.py", "--config-file", CONFIG, "--input", str(folder), "--output"]
    command += [str(tmp_path / "out"), "--opts", "MODEL.WEIGHTS", str(weights / "model.pth")]
    done = run(*command, env={"DETECTRON2_DATASETS": str(shapes)})
    assert done.returncode == 1 and "broken.jpg" in done.stderr and "1 of 2 images" in done.stdout, done.stderr
    names = {f.name for f in (tmp_path / "out").iterdir()}
    assert names == {"gray_overlay.png", "gray_graph.png", "gray.json", "index.html"}
    read = SceneGraph.from_json((tmp_path / "out" / "gray.json").read_text())
    assert (read.height, read.width) == (48, 64)


def test_demo_names_what_is_wrong_with_a_vocabulary(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    (tmp_path / "words.yaml").write_text("thing_classes: [cup, cup]\npredicate_classes: [on]\n")
    command = ["tools/demo.py", "--config-file", CONFIG, "--input", str(tmp_path / "image.png")]
    command += ["--output", str(tmp_path), "--vocabulary", str(tmp_path / "words.yaml")]
    done = run(*command, "--opts", "MODEL.WEIGHTS", "x.pth")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "words.yaml, thing_classes, stuff_classes: 'cup' occurs twice" in done.stderr


def test_demo_names_what_is_missing(tmp_path):
    command = ["tools/demo.py", "--config-file", CONFIG, "--input", str(tmp_path / "none.jpg")]
    command += ["--output", str(tmp_path)]
    done = run(*command)
    assert done.returncode == 2 and "none.jpg" in done.stderr
