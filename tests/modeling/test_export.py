"""The exported network against the model, at other sizes and names than it was recorded with."""

import functools
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torch.nn.functional as F

from usg_psg.cli import export
from usg_psg.modeling.export import OUTPUTS, ExportableNetwork, example_inputs, export_network, fixed_padding
from usg_psg.modeling.openclip import load_openclip
from usg_psg.onnx import NAMES_SUFFIX, OnnxPredictor
from usg_psg.predictor import SceneGraphPredictor
from usg_psg.training_counts import TrainingCounts, TripletCounts
from usg_psg.vocabulary import Vocabulary
from usg_psg_cli import main

from ..checkpoints import save_checkpoint
from ..programs import exit_status
from ..test_onnx import assert_same_graph
from ..tiny import CLIP_NAME

# Images, height and width without padding, objects, predicates.
CASES = [(1, 64, 64, 3, 4), (1, 60, 200, 1, 1), (3, 90, 130, 11, 7)]
NARROW = (2, 30, 100, 5, 2)  # one row of the coarsest level
# As few layers as a model can have, with every option that the network's computation depends on.
SMALL = """MODEL.DEVICE cpu TEST.USG.OBJECT_THRESHOLD 0.0 TEST.USG.OVERLAP_THRESHOLD 0.0
TEST.USG.PREDICATE_LOGIT_ADJUSTMENT 0.5 TEST.USG.TRIPLET_PRIOR 0.5 INPUT.MIN_SIZE_TEST 64
INPUT.MAX_SIZE_TEST 96 MODEL.CLIP.FREEZE True MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE.ENABLED True
MODEL.USG.HIDDEN_DIM 32 MODEL.USG.MASK_DECODER.NUM_LAYERS 1 MODEL.USG.RELATION_HEAD.NUM_LAYERS 1
MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS 240 TEST.USG.RELATIONS_PER_IMAGE 2000""".split()


@pytest.mark.parametrize("kernel", [1, 3, 5, (3, 7)])
@pytest.mark.parametrize("stride", [2, (1, 2), 4])
def test_padding_of_tensorflow_does_not_depend_on_the_size(kernel, stride):
    conv = timm.layers.Conv2dSame(2, 3, kernel, stride)
    model, image = torch.nn.Sequential(conv), torch.randn(2, 2, 32, 64)
    expected = model(image)
    with fixed_padding(model):
        assert "forward" in vars(conv) and torch.equal(model(image), expected)
    assert "forward" not in vars(conv)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of random weights that knows the training data's counts."""
    folder = tmp_path_factory.mktemp("model")
    weights = folder / "clip.pt"
    torch.save(load_openclip(CLIP_NAME).state_dict(), weights)
    clip = ["MODEL.CLIP.NAME", CLIP_NAME, "MODEL.CLIP.PRETRAINED", str(weights)]
    return save_checkpoint(folder, [*clip, *SMALL], give_counts)


def give_counts(model):
    objects, predicates = model.object_names, model.predicate_names
    counts, pairs = tuple(range(1, 1 + len(predicates))), np.full((len(objects), len(objects)), 9)
    triplets = TripletCounts(objects, predicates, np.array([[0, 1, 0, 5], [1, 1, 1, 7]]), pairs)
    model.set_training_counts(TrainingCounts(predicates, counts, counts, 1, triplets))


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return SceneGraphPredictor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def program(predictor):
    return export_network(predictor.model)


@pytest.fixture(scope="module")
def exported(checkpoint, program, tmp_path_factory):
    """`usg-psg export` with a format and options: the file. The network is recorded once."""
    folder = tmp_path_factory.mktemp("exported")

    @functools.cache
    def write(kind, name, *options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export, "export_network", lambda model: program)
            output = folder / name
            words = ["--weights", str(checkpoint), "--format", kind, "--output", str(output), *options]
            assert exit_status(main, ["export", *words]) == 0
        return output

    return write


@pytest.fixture(scope="module")
def onnx_file(exported):
    return exported("onnx", "model.onnx")


def inputs_of(model, images, height, width, objects, predicates):
    generator = torch.Generator().manual_seed(height)
    size = [-(-side // 32) * 32 for side in (height, width)]
    made = example_inputs(model, images, *size)
    made["image"] = torch.randn(images, 3, *size, generator=generator)
    made["sizes"] = torch.tensor([[height - i, width - 2 * i] for i in range(images)])
    for name, count in (("object_text", objects), ("predicate_text", predicates)):
        made[name] = F.normalize(torch.randn(count, made[name].shape[1], generator=generator), dim=1)
    made["clip_weight"] = torch.rand(objects, generator=generator)
    return made


def assert_equal(found, expected, tolerance=1e-4):
    found, expected = ({name: np.asarray(x) for name, x in zip(OUTPUTS, xs, strict=True)} for xs in (found, expected))
    assert near(found["pair_logits"], expected["pair_logits"], tolerance), "in the order of the pairs"
    for outputs in (found, expected):
        # All pairs are proposed. Which of two with nearly the same score comes first, depends on the processor.
        order = np.lexsort((outputs["object"], outputs["subject"]))
        for name in ("subject", "object", "pair_logits"):
            outputs[name] = np.take_along_axis(outputs[name], order, axis=1)
        outputs["predicate_logits"] = np.take_along_axis(outputs["predicate_logits"], order[..., None], axis=1)
    for name, one in found.items():
        assert near(one, expected[name], tolerance), name


def near(one, other, tolerance):
    return one.shape == other.shape and np.abs(one - other).max() <= tolerance


@pytest.mark.slow
def test_torch_export_is_the_network(predictor, exported):
    loaded = torch.export.load(exported("torch-export", "model.pt2")).module()
    for case in CASES:
        inputs = inputs_of(predictor.model, *case)
        with torch.no_grad():
            assert_equal(loaded(**inputs), ExportableNetwork(predictor.model)(**inputs))


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, NARROW])
def test_onnx_is_the_network(case, predictor, onnx_file):
    session = onnxruntime.InferenceSession(onnx_file)
    inputs = inputs_of(predictor.model, *case)
    found = session.run(list(OUTPUTS), {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        assert_equal(found, ExportableNetwork(predictor.model)(**inputs))


@pytest.mark.slow
def test_onnx_predictor_is_the_predictor(predictor, onnx_file, exported, tmp_path):
    images = [
        np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        for size in [(64, 96, 3), (120, 70, 3), (60, 90, 3)]
    ]
    other = OnnxPredictor(onnx_file, threads=1)
    for found, expected in zip(other.batch(images), predictor.batch(images), strict=True):
        assert expected.relations
        assert_same_graph(found, expected)
    (tmp_path / "mine.yaml").write_text("thing_classes: [cup, person]\npredicate_classes: [beside, under]\n")
    names = exported("names", "mine.names.safetensors", "--vocabulary", str(tmp_path / "mine.yaml"))
    other.set_names(names)
    renamed = SceneGraphPredictor(predictor.cfg)
    renamed.set_vocabulary(Vocabulary.read(tmp_path / "mine.yaml"))
    assert_same_graph(other(images[0]), renamed(images[0]))


@pytest.mark.slow
def test_sixteen_bits_are_near(predictor, onnx_file, tmp_path, capsys):
    half = tmp_path / "half.onnx"
    onnx.save(export.to_half(onnx.load(onnx_file)), half)
    onnx.checker.check_model(half, full_check=True)
    shutil.copy(onnx_file.with_suffix(NAMES_SUFFIX), half.with_suffix(NAMES_SUFFIX))
    export.benchmark(predictor, half, [64, 64])
    assert capsys.readouterr().out.count("onnxruntime") == 2
    assert half.stat().st_size < 0.7 * onnx_file.stat().st_size
    assert {x.elem_type for x in (i.type.tensor_type for i in onnx.load(half).graph.input)} == {1, 7}
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    one, other = (OnnxPredictor(path, threads=1) for path in (half, onnx_file))
    found, expected = (each.run(*each.preprocess([image])) for each in (one, other))
    for name in ("class_logits", "mask_logits"):
        assert np.abs(found[name] - expected[name]).max() < 0.1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_package_is_the_network(predictor, exported):
    with torch._inductor.config.patch("aot_inductor.compile_wrapper_opt_level", "O0"):  # compiles faster
        loaded = torch._inductor.aoti_load_package(str(exported("aoti", "compiled.pt2")))
    for case in CASES:
        inputs = inputs_of(predictor.model, *case)
        with torch.no_grad():
            assert_equal(loaded(**inputs), ExportableNetwork(predictor.model)(**inputs))


@pytest.mark.parametrize(
    "words, message",
    [
        (["--format", "onnx", "--output", "a.pt2"], "--output a.pt2: expected a file .onnx"),
        (["--format", "aoti", "--output", "a.pt2", "--half"], "--half and --benchmark belong to --format onnx"),
        (["--format", "onnx", "--output", "a.onnx", "--opts", "TEST.TASK", "predcls"], "TEST.TASK predcls: expected"),
    ],
)
def test_bad_requests_end_in_one_line(words, message, checkpoint, capsys):
    assert exit_status(main, ["export", "--weights", str(checkpoint), *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_part_that_cannot_be_recorded_is_refused(predictor, monkeypatch):
    monkeypatch.setattr(predictor.model.backbone, "forward", lambda image: int(image.sum()))
    with pytest.raises(ValueError, match="the network of this configuration cannot be exported: "):
        export_network(predictor.model)
