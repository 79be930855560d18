"""The recipe of the specification at full size, with random weights."""

import pytest
import torch
from detectron2.structures import Instances

from usg_psg.config import build_cfg
from usg_psg.data.psg_categories import PSG_PREDICATE_CLASSES, PSG_STUFF_CLASSES, PSG_THING_CLASSES


@pytest.mark.slow
def test_full_size_model_trains_a_step_and_infers_on_a_cpu():
    from detectron2.modeling import build_model

    # Fifteen prompts a name take minutes.
    one = ["MODEL.CLIP.OBJECT_TEMPLATES", ["{}"], "MODEL.CLIP.PREDICATE_TEMPLATES", ["{}"]]
    cfg = build_cfg("psg/usg_par_convnext_large.yaml", ["MODEL.CLIP.PRETRAINED", "", "MODEL.DEVICE", "cpu", *one])
    model = build_model(cfg)
    assert model.object_text.shape == (len(PSG_THING_CLASSES) + len(PSG_STUFF_CLASSES), 768)
    assert model.predicate_text.shape == (len(PSG_PREDICATE_CLASSES), 768)
    frozen = sum(p.numel() for p in model.backbone.parameters())
    assert 195e6 < frozen < 200e6, "ConvNeXt-Large without its head"
    assert not any(p.requires_grad for p in model.backbone.parameters())

    height, width = 128, 160
    objects = Instances((height, width))
    objects.gt_classes = torch.tensor([0, 17, 132])
    objects.gt_masks = torch.zeros(3, height, width, dtype=torch.bool)
    for index, columns in enumerate([slice(0, 50), slice(50, 100), slice(100, 160)]):
        objects.gt_masks[index, :, columns] = True
    sample = {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
        "instances": objects,
        "relations": torch.tensor([[0, 1, 3], [1, 2, 14]]),
    }
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
    losses = model.train()([sample])
    assert {"loss_class_5", "loss_mask", "loss_pair", "loss_predicate"} <= set(losses)
    sum(losses.values()).backward()
    optimizer.step()
    with torch.no_grad():
        result = model.eval()([sample])[0]
    assert len(result["relations"]["score"]) >= 100
    assert result["instances"].pred_masks.shape[1:] == (height, width)
