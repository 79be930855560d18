"""Checkpoints: bit-exact, without frozen weights, whole or not at all."""

import pytest
import torch
from safetensors.torch import save_file

from usg_psg.engine.checkpoint import FROZEN_KEY, USGCheckpointer, write_whole

from ..tiny import tiny_input, tiny_model


@torch.no_grad()
def outputs(model):
    torch.manual_seed(1)
    return model.eval()([tiny_input(1)])[0]


def assert_same(a: dict, b: dict) -> None:
    assert torch.equal(a["instances"].pred_masks, b["instances"].pred_masks)
    assert torch.equal(a["instances"].scores, b["instances"].scores)
    for key, value in a["relations"].items():
        assert torch.equal(value, b["relations"][key]), key
    assert torch.equal(a["panoptic_seg"][0], b["panoptic_seg"][0])


def perturb(model):
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.02)
    return model


@pytest.mark.parametrize("freeze", [False, True])
def test_saved_and_loaded_gives_the_same_outputs_bit_for_bit(tmp_path, freeze):
    model = perturb(tiny_model(freeze=freeze))
    USGCheckpointer(model, str(tmp_path)).save("model", iteration=3)
    other = perturb(tiny_model(freeze=freeze))
    with pytest.raises(AssertionError):
        assert_same(outputs(model), outputs(other))
    rest = USGCheckpointer(other, str(tmp_path)).load(str(tmp_path / "model.pth"))
    assert rest["iteration"] == 3
    assert_same(outputs(model), outputs(other))


def test_frozen_weights_are_left_out_and_recorded(tmp_path):
    model = tiny_model(freeze=True)
    USGCheckpointer(model, str(tmp_path)).save("model")
    data = torch.load(tmp_path / "model.pth", weights_only=True)
    assert not [k for k in data["model"] if k.startswith("backbone.")]
    digest = data[FROZEN_KEY].pop("digest")
    assert len(digest) == 64 and data[FROZEN_KEY] == model.backbone.weights_identity


def test_safetensors_are_read(tmp_path):
    model = perturb(tiny_model())
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    other = perturb(tiny_model())
    USGCheckpointer(other).load(str(tmp_path / "model.safetensors"))
    assert_same(outputs(model), outputs(other))


def test_another_frozen_backbone_is_refused(tmp_path):
    model = tiny_model(freeze=True)
    USGCheckpointer(model, str(tmp_path)).save("model")
    model.backbone.weights_identity = {"model": "another"}
    USGCheckpointer(model).load(str(tmp_path / "model.pth"))  # of another name, the same weights
    with torch.no_grad():
        next(model.backbone.parameters()).add_(1e-4)
    with pytest.raises(ValueError, match="another"):
        USGCheckpointer(model).load(str(tmp_path / "model.pth"))


def test_last_checkpoint_is_found(tmp_path):
    checkpointer = USGCheckpointer(tiny_model(), str(tmp_path))
    assert not checkpointer.has_checkpoint()
    checkpointer.save("model_0000004")
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000004.pth")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"new, but not all of it")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "truncated"])
def test_broken_checkpoint_is_named(tmp_path, content):
    model = tiny_model()
    path = tmp_path / "model.pth"
    if content == "truncated":
        USGCheckpointer(model, str(tmp_path)).save("model")
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="model.pth"):
        USGCheckpointer(model).load(str(path))
