"""Parameter groups and clipping."""

import pytest
import torch

from usg_psg.config import build_cfg
from usg_psg.engine.optimizer import GradientClipper, build_optimizer, parameter_groups

from ..tiny import tiny_model


def cfg(*opts):
    return build_cfg("", list(opts))


def test_every_trained_parameter_is_in_one_group():
    model = tiny_model()
    groups = parameter_groups(cfg("SOLVER.BACKBONE_MULTIPLIER", "0.1"), model)
    ids = [id(p) for g in groups for p in g["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}
    setting = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert setting[id(model.mask_decoder.decoder_norm.weight)] == (1e-3, 0.0)
    assert setting[id(model.mask_decoder.query_feat.weight)] == (1e-3, 0.0)
    assert setting[id(model.class_head.logit_scale.log_scale)] == (1e-3, 0.0)
    assert setting[id(model.mask_decoder.mask_embed.layers[0].weight)] == (1e-3, 1e-2)
    assert setting[id(model.backbone.trunk["stem"][0].weight)] == (1e-4, 1e-2)


def test_frozen_parameters_are_in_none():
    model = tiny_model(freeze=True)
    ids = {id(p) for g in parameter_groups(cfg(), model) for p in g["params"]}
    assert not ids & {id(p) for p in model.backbone.parameters()}


@pytest.mark.parametrize(
    "kind, clipped",
    [("full_model", 1 / 16**0.5), ("norm", None), ("value", 1.0), ("none", 10.0)],
)
def test_clipping_and_the_norm_before_it(kind, clipped):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1))  # 16 numbers in 4 parameters
    for p in model.parameters():
        p.grad = torch.full_like(p, 10.0)
    total = GradientClipper(kind, 1.0)(list(model.parameters()))
    torch.testing.assert_close(total, torch.tensor(10.0 * 4))
    for p in model.parameters():
        value = clipped if clipped is not None else 1 / p.numel() ** 0.5
        torch.testing.assert_close(p.grad, torch.full_like(p, value), atol=1e-4, rtol=0)


def test_clipping_follows_the_config():
    assert GradientClipper.from_config(cfg()).kind == "full_model"
    assert GradientClipper.from_config(cfg("SOLVER.CLIP_GRADIENTS.ENABLED", "False")).kind == "none"


def test_unknown_optimizer_and_clip_type():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="ADAMW"):
        build_optimizer(cfg("SOLVER.OPTIMIZER", "SGD"), model)
    with pytest.raises(ValueError, match="kind: expected"):
        GradientClipper.from_config(cfg("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "half"))
