"""Checkpoints: bit-exact, without frozen weights, whole or not at all."""

import pytest
import torch
from safetensors.torch import save_file

from usg_psg.engine import USGCheckpointer
from usg_psg.engine.checkpoint_file import FROZEN_KEY
from usg_psg.engine.ema import ModelEMA
from usg_psg.modeling.openclip import weights_identity
from usg_psg.utils.files import write_whole

from ..tiny import CLIP_NAME, tiny_input, tiny_model


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
    with pytest.raises(ValueError, match="another"):
        USGCheckpointer(change_backbone(model)).load(str(tmp_path / "model.pth"))


def change_backbone(model):
    with torch.no_grad():
        next(model.backbone.parameters()).add_(1e-4)
    return model


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    USGCheckpointer(tiny_model(freeze=True), str(tmp_path)).save("model")
    with pytest.raises(ValueError, match="other weights than this model's, though both are called"):
        USGCheckpointer(change_backbone(tiny_model(freeze=True))).load(str(tmp_path / "model.pth"))


def test_checkpoints_without_a_digest_are_compared_by_name(tmp_path):
    model = tiny_model(freeze=True)
    USGCheckpointer(model, str(tmp_path)).save("model")
    data = torch.load(tmp_path / "model.pth", weights_only=True)
    del data[FROZEN_KEY]["digest"]
    torch.save(data, tmp_path / "old.pth")
    USGCheckpointer(model).load(str(tmp_path / "old.pth"))
    model.backbone.weights_identity = {"model": "another"}
    with pytest.raises(ValueError, match="this model has {'model': 'another'}"):
        USGCheckpointer(model).load(str(tmp_path / "old.pth"))


def test_a_frozen_backbone_that_came_from_a_checkpoint_is_saved_again(tmp_path):
    """As after tools/convert_checkpoint.py --with-backbone: MODEL.CLIP would not give these weights another time."""
    first = change_backbone(tiny_model(freeze=False))
    USGCheckpointer(first, str(tmp_path)).save("with_backbone")
    second = tiny_model(freeze=True)
    checkpointer = USGCheckpointer(second, str(tmp_path))
    checkpointer.load(str(tmp_path / "with_backbone.pth"))
    checkpointer.save("trained")
    third = perturb(tiny_model(freeze=True))
    USGCheckpointer(third).load(str(tmp_path / "trained.pth"))
    assert_same(outputs(third), outputs(first))
    # The same weights as OpenCLIP's need not be saved.
    USGCheckpointer(tiny_model(freeze=False), str(tmp_path)).save("with_backbone")
    fourth = USGCheckpointer(tiny_model(freeze=True), str(tmp_path))
    fourth.load(str(tmp_path / "with_backbone.pth"))
    fourth.save("trained")
    assert FROZEN_KEY in torch.load(tmp_path / "trained.pth", weights_only=True)


def test_an_average_that_is_ignored_is_named(tmp_path, caplog):
    model = tiny_model()
    average = ModelEMA(model)
    USGCheckpointer(model, str(tmp_path), ema=average).save("model")
    USGCheckpointer(model).load(str(tmp_path / "model.pth"))
    assert "moving average of the weights, which is not used: SOLVER.EMA.ENABLED True takes it" in caplog.text
    caplog.clear()
    USGCheckpointer(model, load_ema=True).load(str(tmp_path / "model.pth"))
    USGCheckpointer(model, ema=average).load(str(tmp_path / "model.pth"))
    assert "average" not in caplog.text


def test_averages_of_other_shapes_are_refused(tmp_path):
    model = tiny_model()
    USGCheckpointer(model, str(tmp_path), ema=ModelEMA(model)).save("model")
    data = torch.load(tmp_path / "model.pth", weights_only=True)
    name = next(iter(data["ema"]))
    data["ema"][name] = torch.zeros(7)
    torch.save(data, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=rf"model.pth, ema: cannot be restored: {name} is \(7,\)"):
        USGCheckpointer(model, ema=ModelEMA(model)).load(str(tmp_path / "model.pth"))


class Trainer:
    """Stands for the state of one."""

    def __init__(self, error: Exception | None = None):
        self.error = error

    def state_dict(self):
        return {"iteration": 3}

    def load_state_dict(self, state):
        if self.error:
            raise self.error


def test_a_run_does_not_go_on_from_weights_alone(tmp_path):
    model = tiny_model()
    USGCheckpointer(model, str(tmp_path)).save("model")
    kept = {name: value.clone() for name, value in perturb(model).state_dict().items()}
    with pytest.raises(ValueError, match="model.pth has weights, but no state of a training run.*MODEL.WEIGHTS"):
        USGCheckpointer(model, str(tmp_path), trainer=Trainer()).resume_or_load("", resume=True)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    USGCheckpointer(model, trainer=Trainer()).resume_or_load(str(tmp_path / "model.pth"), resume=False)


@pytest.mark.parametrize(
    "error", [KeyError("scheduler"), TypeError("no mapping"), AttributeError("x"), ValueError("y")]
)
def test_a_state_that_cannot_be_restored_is_named(tmp_path, error):
    model = tiny_model()
    USGCheckpointer(model, str(tmp_path), trainer=Trainer()).save("model")
    with pytest.raises(ValueError, match=f"model.pth, trainer: cannot be restored: .*{error.args[0]}"):
        USGCheckpointer(model, str(tmp_path), trainer=Trainer(error)).resume_or_load("", resume=True)


def test_a_name_with_and_without_prefix_is_refused(tmp_path):
    weights = tiny_model().state_dict()
    name = next(iter(weights))
    torch.save({"model": {**weights, f"module.{name}": weights[name]}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=f"{name}: the checkpoint has this name and module.{name}"):
        USGCheckpointer(tiny_model()).load(str(tmp_path / "model.pth"))


def random_model():
    model = tiny_model()
    model.backbone.weights_identity = weights_identity(CLIP_NAME)
    return model


def test_random_weights_are_warned_of_where_they_stay(tmp_path, caplog):
    USGCheckpointer(random_model()).load("")
    assert f"{CLIP_NAME}, has random weights: MODEL.CLIP.PRETRAINED is empty" in caplog.text
    USGCheckpointer(perturb(tiny_model()), str(tmp_path)).save("model")
    caplog.clear()
    USGCheckpointer(random_model()).load(str(tmp_path / "model.pth"))
    assert "random" not in caplog.text


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
