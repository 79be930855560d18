"""Pre- and post-processing on numpy against those on PyTorch; a network that answers with constants stands in."""

import json
import math

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from usg_psg.data.psg_mapper import ResizeToPixels
from usg_psg.inference import Postprocessor
from usg_psg.modeling.export import OUTPUTS
from usg_psg.onnx import NAMES_SUFFIX, SETTINGS_KEY, OnnxPredictor
from usg_psg.scene_graph import SceneGraph
from usg_psg.structures import ObjectPredictions, PairProposals, RelationPredictions
from usg_psg.vocabulary import VOCABULARY_KEY, Vocabulary

from .programs import run
from .tiny import tiny_model

VOCABULARY = Vocabulary(("person", "dog"), ("sky-other-merged", "grass-merged"), ("on", "over", "beside"))
QUERIES, PAIRS, WIDTH = 14, 60, 8
MEAN, STD = 120.0, 60.0  # of `tiny_model`
SETTINGS = {
    "image_format": "RGB",
    "min_size": 64,
    "max_size": 100,
    "pixel_mean": [MEAN] * 3,
    "pixel_std": [STD] * 3,
    "size_divisibility": 32,
    "object_threshold": 0.4,
    "overlap_threshold": 0.1,
    "relations_per_image": 20,
}


def padded_size(height, width):
    """(H, W) of the network's input for an image."""
    predictor = OnnxPredictor.__new__(OnnxPredictor)
    predictor.settings = SETTINGS
    return predictor.preprocess([np.zeros((height, width, 3), np.uint8)])[0].shape[2:]


def answers(size, seed=0):
    """Outputs of a network for one image: masks of some smoothness, a few of them empty."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 6 * torch.randn(QUERIES, 1, 5, 5, generator=generator)
    coarse[::5] = -6
    masks = F.interpolate(coarse, size=(size[0] // 4, size[1] // 4), mode="bicubic")[:, 0]
    pairs = torch.cartesian_prod(torch.arange(QUERIES), torch.arange(QUERIES))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]][torch.randperm(QUERIES * (QUERIES - 1), generator=generator)[:PAIRS]]
    values = (
        *(torch.zeros(QUERIES, WIDTH), torch.randn(QUERIES, 4, generator=generator), masks),
        *(pairs[:, 0], pairs[:, 1]),
        *(torch.randn(PAIRS, generator=generator), torch.randn(PAIRS, 3, generator=generator)),
    )
    return {name: value[None] for name, value in zip(OUTPUTS, values, strict=True)}


def write_network(path, outputs, settings=SETTINGS):
    """An ONNX file with the inputs of a network that answers the same to every image, and its file of names."""
    free = {"image": ["images", 3, "rows", "columns"], "object_text": ["objects", WIDTH]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in free.items()]
    inputs.append(helper.make_tensor_value_info("predicate_text", TensorProto.FLOAT, ["predicates", WIDTH]))
    inputs.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, ["images", 2]))
    constants = [numpy_helper.from_array(value.numpy(), f"{name}_value") for name, value in outputs.items()]
    nodes = [helper.make_node("Identity", [f"{name}_value"], [name]) for name in outputs]
    kinds = [(TensorProto.INT64 if value.dtype == torch.int64 else TensorProto.FLOAT) for value in outputs.values()]
    described = [
        helper.make_tensor_value_info(name, kind, list(value.shape))
        for (name, value), kind in zip(outputs.items(), kinds, strict=True)
    ]
    graph = helper.make_graph(nodes, "answers", inputs, described, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if settings is not None:
        helper.set_model_props(model, {SETTINGS_KEY: json.dumps(settings)})
    onnx.save(model, path)
    write_names(path.with_suffix(NAMES_SUFFIX))
    return path


def write_names(path, width=WIDTH):
    texts = {"objects": np.eye(4, width, dtype=np.float32), "predicates": np.eye(3, width, dtype=np.float32)}
    save_file(texts, path, metadata={VOCABULARY_KEY: json.dumps(VOCABULARY.record())})


def graph_by_torch(outputs, padded, size, original):
    post = Postprocessor(*(SETTINGS[f"{key}"] for key in ("object_threshold", "overlap_threshold")), 20)
    masks = outputs["mask_logits"]
    queries = torch.eye(QUERIES)[None, None]
    objects = ObjectPredictions(queries, outputs["class_logits"][None], queries, masks)
    pair_logits = torch.zeros(1, QUERIES, QUERIES)
    pair_logits[0, outputs["subject"][0], outputs["object"][0]] = outputs["pair_logits"]
    proposals = PairProposals(pair_logits, outputs["subject"], outputs["object"])
    found = post.detected_objects(objects, torch.tensor(VOCABULARY.is_thing), padded, [size], [original])
    (output,) = post.scene_graphs(found, RelationPredictions(proposals, outputs["predicate_logits"]))
    return SceneGraph.from_output(output, VOCABULARY)


def assert_same_graph(found, expected):
    assert (found.height, found.width) == (expected.height, expected.width)
    assert [(x.label, x.isthing) for x in found.objects] == [(x.label, x.isthing) for x in expected.objects]
    for one, other in zip(found.objects, expected.objects, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert (one.mask_array() != other.mask_array()).mean() < 2e-3
    # Which of two with nearly the same score comes first, depends on the processor.
    one, other = ({(r.subject, r.object, r.predicate): r.score for r in x.relations} for x in (found, expected))
    assert one == pytest.approx(other, abs=1e-5)
    assert [r.score for r in found.relations] == pytest.approx([r.score for r in expected.relations], abs=1e-5)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize("height, width", [(64, 96), (50, 70), (200, 120), (37, 411), (300, 301)])
def test_preprocessing_is_the_models(height, width, model):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    predictor = OnnxPredictor.__new__(OnnxPredictor)
    predictor.settings = SETTINGS
    batch, sizes = predictor.preprocess([image, image[:-9]])
    resize = ResizeToPixels(T.ResizeShortestEdge(64, 100, "choice"))
    resized = [resize.get_transform(x).apply_image(x) for x in (image, image[:-9])]
    inputs = [{"image": torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))} for x in resized]
    expected = model.preprocess(inputs)
    assert sizes.tolist() == [list(size) for size in expected.image_sizes]
    np.testing.assert_allclose(batch, expected.tensor.numpy(), atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("height, width", [(64, 96), (50, 70), (200, 120), (90, 37)])
def test_postprocessing_is_the_models(height, width, seed, tmp_path):
    padded = padded_size(height, width)
    outputs = answers(padded, seed)
    predictor = OnnxPredictor(write_network(tmp_path / "model.onnx", outputs), threads=1)
    image = np.zeros((height, width, 3), np.uint8)
    (size,) = predictor.preprocess([image])[1]
    expected = graph_by_torch(outputs, padded, tuple(size.tolist()), (height, width))
    assert len(expected.objects) > 1 and expected.relations
    assert_same_graph(predictor(image), expected)


@pytest.mark.parametrize("name, value", [("class_logits", -9.0), ("mask_logits", -9.0), ("mask_logits", 9.0)])
def test_images_of_no_object_and_of_one(name, value, tmp_path):
    outputs = answers((64, 96))
    outputs[name] = torch.full_like(outputs[name], value)
    predictor = OnnxPredictor(write_network(tmp_path / "model.onnx", outputs), threads=1)
    expected = graph_by_torch(outputs, (64, 96), (64, 96), (64, 96))
    assert_same_graph(predictor(np.zeros((64, 96, 3), np.uint8)), expected)
    assert len(expected.objects) == (value > 0)


def test_rare_predicates_are_shifted(tmp_path):
    path = write_network(tmp_path / "model.onnx", answers((64, 96)))
    predictor, image = OnnxPredictor(path, threads=1), np.zeros((64, 96, 3), np.uint8)
    before = predictor(image).relations[0]
    predictor.names.arrays["predicate_shift"] = np.array([0, 0, 30], dtype=np.float32)
    after = predictor(image)
    assert not math.isclose(before.score, 0) and all(r.predicate != "beside" for r in after.top(5).relations)


def test_no_torch_is_needed(tmp_path):
    path = write_network(tmp_path / "model.onnx", answers((64, 96)))
    np.save(tmp_path / "image.npy", np.zeros((64, 96, 3), np.uint8))
    code = """
import sys
for name in ("torch", "torchvision", "detectron2", "onnx"):
    sys.modules[name] = None  # makes its import fail
import numpy as np
from usg_psg.onnx import OnnxPredictor
print(OnnxPredictor(sys.argv[1], threads=1)(np.load(sys.argv[2])).to_json())
"""
    done = run("-c", code, path, tmp_path / "image.npy", fresh=True)
    assert done.returncode == 0, done.stderr
    expected = OnnxPredictor(path, threads=1)(np.zeros((64, 96, 3), np.uint8))
    assert SceneGraph.from_json(done.stdout) == expected


def test_wrong_files_and_images_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no ONNX file .*none\.onnx"):
        OnnxPredictor(tmp_path / "none.onnx")
    other = write_network(tmp_path / "other.onnx", answers((64, 96)), settings=None)
    with pytest.raises(ValueError, match=r"other\.onnx was not written by usg-psg export"):
        OnnxPredictor(other)
    predictor = OnnxPredictor(write_network(tmp_path / "model.onnx", answers((64, 96))), threads=1)
    assert predictor.batch([]) == []
    with pytest.raises(FileNotFoundError, match="there is no file of names"):
        predictor.set_names(tmp_path / "none.names.safetensors")
    save_file({"objects": np.zeros((1, 8), np.float32)}, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=r"bad\.safetensors is no file of names"):
        predictor.set_names(tmp_path / "bad.safetensors")
    write_names(tmp_path / "wide.safetensors", width=9)
    with pytest.raises(ValueError, match=r"object_text: expected embeddings of width \[8\], got \(4, 9\)"):
        predictor.set_names(tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match=r"uint8 RGB array, got ndarray \(4, 4\) uint8"):
        predictor(np.zeros((4, 4), np.uint8))
