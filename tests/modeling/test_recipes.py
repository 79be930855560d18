"""The recipes on PSG build a model that trains and infers, at a size that a test can afford."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from usg_psg.config import build_cfg
from usg_psg.engine import adapt_to_machine, build_optimizer
from usg_psg.training_counts import TrainingCounts, TripletCounts

from ..tiny import tiny_input

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = sorted(f"{path.parent.name}/{path.name}" for path in CONFIGS.glob("p*/usg_par_*.yaml"))
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.CLIP.NAME": "usg_convnext_zepto",
    "MODEL.CLIP.PRETRAINED": "",
    "MODEL.TIMM.NAME": "test_vit",
    "MODEL.TIMM.PRETRAINED": "",
    "MODEL.TIMM.PYRAMID_DIM": "16",
    "MODEL.USG.HIDDEN_DIM": "32",
    "MODEL.USG.SIZE_DIVISIBILITY": "64",
    "MODEL.USG.PIXEL_DECODER.FFN_DIM": "32",
    "MODEL.USG.MASK_DECODER.FFN_DIM": "32",
    "MODEL.USG.MASK_DECODER.NUM_QUERIES": "12",
    "MODEL.USG.RELATION_HEAD.FFN_DIM": "32",
    "MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS": "30",
    "MODEL.USG.LOSS.NUM_POINTS": "64",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_trains_a_step_and_infers(recipe):
    torch.manual_seed(0)
    cfg = build_cfg(recipe, [word for pair in SMALL.items() for word in pair])
    adapt_to_machine(cfg)
    model = build_model(cfg).train()
    samples = [tiny_input(), tiny_input(2, relations=((1, 0, 5),))]
    optimizer = build_optimizer(cfg, model)
    trained = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    losses = model(samples)
    assert all(math.isfinite(value.item()) for value in losses.values())
    assert ("loss_mask_0" in losses) == cfg.MODEL.USG.MASK_DECODER.DEEP_SUPERVISION
    sum(losses.values()).backward()
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not without, "a gradient for every trained parameter"
    optimizer.step()
    changed = [name for name, value in model.named_parameters() if name in trained and (value != trained[name]).any()]
    assert len(changed) > 0.9 * len(trained)
    names = model.predicate_names
    ones = (1,) * len(names)
    triplets = TripletCounts(("person",), names, np.array([[0, 0, 0, 1]]), np.array([[1]]))
    model.set_training_counts(TrainingCounts(names, ones, ones, 1, triplets))
    with torch.no_grad():
        result = model.eval()(samples[:1])[0]
    assert len(result["pairs"]["score"]) <= 30 and torch.isfinite(result["relations"]["score"]).all()
