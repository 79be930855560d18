"""OpenCLIP models from files."""

import pytest
import torch
from safetensors.torch import save_file

from usg_psg.config import build_cfg
from usg_psg.modeling import openclip, openclip_convnext

from ..programs import run

DRAWS = {"usg_convnext_zepto": False, "RN50-quickgelu": True}  # that makes some weights of torch.randn


@pytest.fixture
def poisoned_memory():
    """New memory is not a number."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("name", DRAWS)
def test_a_file_gives_every_weight_and_buffer(name, tmp_path, monkeypatch, poisoned_memory):
    source = openclip.load_openclip(name)
    with torch.no_grad():
        for number, parameter in enumerate(source.parameters()):
            parameter += number
    torch.save(source.state_dict(), tmp_path / "weights.pt")

    create = openclip.open_clip.create_model

    def without_drawing(*args, **kwargs):
        state = torch.get_rng_state()
        model = create(*args, **kwargs)
        assert DRAWS[name] or torch.equal(torch.get_rng_state(), state), "weights that are read next were drawn"
        return model

    monkeypatch.setattr(openclip.open_clip, "create_model", without_drawing)
    found = openclip.load_openclip(name, str(tmp_path / "weights.pt"))
    for kind in ("named_parameters", "named_buffers"):
        expected = dict(getattr(source, kind)())
        assert dict(getattr(found, kind)()).keys() == expected.keys()
        for each, value in getattr(found, kind)():
            assert torch.equal(value, expected[each]), each


def weight_file(name: str, path, **changes) -> tuple[torch.nn.Module, str]:
    """An OpenCLIP model, and its weights in a file."""
    source = openclip.load_openclip(name)
    weights = {key: x + 1 for key, x in source.state_dict().items()} | changes
    weights = {key: x.contiguous() for key, x in weights.items() if x is not None}
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights} if path.stem == "nested" else weights, path)
    return source, str(path)


@pytest.mark.parametrize("file", ["weights.pt", "nested.pt", "weights.safetensors"])
def test_the_image_network_alone_has_the_weights_of_the_file(file, tmp_path, monkeypatch, poisoned_memory):
    source, path = weight_file("usg_convnext_zepto", tmp_path / file)
    monkeypatch.setattr(openclip, "load_openclip", None)  # is not called
    trunk = openclip.load_trunk("usg_convnext_zepto", path)
    assert not trunk.training and len(trunk.feature_info) == 4
    expected = {
        key: x + 1 for key, x in source.visual.trunk.state_dict().items() if key.startswith(("stem.", "stages."))
    }
    found = {key: x for key, x in trunk.state_dict().items() if key in expected}
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_image_network_of_the_full_size_model_is_that_of_openclip():
    with torch.device("meta"):
        config = openclip.open_clip.get_model_config("convnext_large_d_320")
        keys = {"timm_pool": "pool", "timm_proj": "proj", "timm_drop": "drop", "timm_drop_path": "drop_path"}
        given = {own: config["vision_cfg"][key] for key, own in keys.items() if key in config["vision_cfg"]}
        name = config["vision_cfg"]["timm_model_name"]
        tower = openclip.open_clip.timm_model.TimmModel(name, config["embed_dim"], **given)
        with openclip.checkpoint_weights():
            trunk = openclip.load_trunk("convnext_large_d_320")
    for part in ("stem", "stages"):
        assert str(getattr(trunk, part)) == str(getattr(tower.trunk, part))
        shapes = [
            {key: x.shape for key, x in getattr(each, part).state_dict().items()} for each in (trunk, tower.trunk)
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("changes", ["missing", "of another shape", "unexpected"])
def test_what_does_not_fit_is_for_openclip_to_refuse(changes, tmp_path):
    key = "visual.trunk.stages.0.blocks.0.conv_dw.weight"
    other = {"missing": {key: None}, "of another shape": {key: torch.ones(3)}, "unexpected": {f"{key}s": torch.ones(3)}}
    _, path = weight_file("usg_convnext_zepto", tmp_path / "weights.pt", **other[changes])
    with pytest.raises(ValueError, match="could not be loaded with weights"):
        openclip.load_trunk("usg_convnext_zepto", path)


@pytest.mark.parametrize("file", ["weights.pt", "weights.safetensors"])
def test_of_a_file_the_image_network_is_enough(file, tmp_path):
    source = openclip.load_openclip("usg_convnext_zepto")
    others = {
        key: None for key in source.state_dict() if not key.startswith(("visual.trunk.stem", "visual.trunk.stages"))
    }
    _, path = weight_file("usg_convnext_zepto", tmp_path / file, **others)
    assert openclip.load_trunk("usg_convnext_zepto", path).stem is not None


def test_a_damaged_file_is_refused(tmp_path):
    _, path = weight_file("usg_convnext_zepto", tmp_path / "weights.pt")
    content = bytearray((tmp_path / "weights.pt").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(ValueError, match="MODEL.CLIP.PRETRAINED .*weights.pt cannot be read"):
        openclip.load_trunk("usg_convnext_zepto", path)


def test_a_tower_without_stages_is_not_taken_for_loaded(tmp_path):
    torch.save({"other": torch.ones(1)}, tmp_path / "weights.pt")
    assert openclip._trunk_alone("ViT-B-16-SigLIP", str(tmp_path / "weights.pt")) is None


@pytest.mark.parametrize("ensemble", [False, True])
def test_a_config_with_a_model_without_a_timm_network_is_refused(ensemble):
    opts = ["MODEL.CLIP.NAME", "RN50-quickgelu", "MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE.ENABLED", str(ensemble)]
    cfg = build_cfg("quickstart/usg_par_quickstart.yaml", opts)
    with pytest.raises(ValueError, match="'RN50-quickgelu' has no timm image tower"), openclip.checkpoint_weights():
        openclip_convnext.OpenCLIPConvNeXt.from_config(cfg, None)


def test_a_model_without_a_timm_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'RN50-quickgelu' has no timm image tower"), openclip.checkpoint_weights():
        openclip.load_trunk("RN50-quickgelu")


def test_a_model_that_a_checkpoint_fills_needs_no_openclip():
    program = """
import sys
from usg_psg.config import build_cfg
from usg_psg.modeling.openclip import check_openclip, checkpoint_weights, load_trunk
check_openclip("convnext_large_d_320")
with checkpoint_weights():
    load_trunk("usg_convnext_zepto")
assert not {"open_clip", "transformers"} & set(sys.modules)
"""
    done = run("-c", program, fresh=True)
    assert done.returncode == 0, done.stderr
