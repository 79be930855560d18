"""Parameter groups and clipping."""

import pytest
import torch

from usg_psg.config import build_cfg
from usg_psg.config.checks import value_problems
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


def test_multipliers_by_module():
    model = tiny_model()
    chosen = "[('mask_decoder', 0.1), ('mask_decoder.mask_embed', 0.5), ('relation_head', 0), ('pixel_decoder', 1)]"
    settings = cfg("SOLVER.MULTIPLIERS", chosen)
    optimizer = build_optimizer(settings, model)
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rate[id(model.mask_decoder.query_feat.weight)] == pytest.approx(1e-4)
    assert rate[id(model.mask_decoder.mask_embed.layers[0].weight)] == pytest.approx(5e-4), "the longest name counts"
    assert rate[id(model.pixel_decoder.mask_features.weight)] == rate[id(model.class_head.logit_scale.bias)] == 1e-3
    assert rate[id(model.backbone.trunk["stem"][0].weight)] == pytest.approx(1e-5), "CLIP survives by default"
    untrained = {name for name, p in model.named_parameters() if id(p) not in rate}
    assert untrained == {f"relation_head.{name}" for name, _ in model.relation_head.named_parameters()}
    assert not any(p.requires_grad for p in model.relation_head.parameters())
    with pytest.raises(ValueError, match=r"MULTIPLIERS: the model has no module 'mask_decode'; did you mean mask_dec"):
        build_optimizer(cfg("SOLVER.MULTIPLIERS", "[('mask_decode', 0.1)]"), model)


@pytest.mark.parametrize("value", ["[0.1]", "[('backbone',)]", "[('backbone', -1)]", "[(1, 1)]"])
def test_multipliers_are_pairs(value):
    (problem,) = value_problems(cfg("SOLVER.MULTIPLIERS", value))
    assert problem.startswith("SOLVER.MULTIPLIERS: expected pairs of a module's name and a factor of 0 or more, got")


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
