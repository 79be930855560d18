"""The assembled model: gradients, edges, inference output, vocabulary."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import ImageList

from mask2former_ops import resize_masks
from usg_psg.structures import TextEmbeddings

from ..tiny import LOSSES, tiny_input, tiny_model

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layer_order": "cross_first", "query_form": "embedded", "add_missed_pairs": True},
        {"deep_supervision": False},
        {"relation_layers": 0},
        {"pilot_noise": 0.2},
    ],
    ids=["spec", "released", "last layer only", "no relation decoder", "mask pilot"],
)
def test_every_trainable_parameter_gets_a_gradient(options):
    model = tiny_model(**options).train()
    with torch.no_grad():  # deformable attention starts with zero weights, behind which nothing gets a gradient yet
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    losses = model([tiny_input(3), tiny_input(2, 96, 64)])
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not without


def test_losses_of_every_layer_are_reported_by_name():
    model = tiny_model().train()
    losses = model([tiny_input(3)])
    layers = ["", "_0", "_1", "_2"]  # three layers and the prediction before the first; the last has no suffix
    assert set(losses) == {f"{name}{layer}" for name in LOSSES[:3] for layer in layers} | set(LOSSES[3:])
    assert all(torch.isfinite(v) for v in losses.values())
    alone = tiny_model(deep_supervision=False).train()([tiny_input(3)])
    assert set(alone) == set(LOSSES)


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (1, 2), (20,)], ids=str)
@pytest.mark.parametrize("pilot_noise", [None, 0.2])
def test_images_without_objects_or_relations_or_with_too_many_objects(counts, pilot_noise):
    """Parameters must still be part of the graph: with several processes, each needs its gradient in all of them."""
    model = tiny_model(pilot_noise=pilot_noise).train()
    losses = model([tiny_input(n, relations=()) for n in counts])
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_a_frozen_backbone_stays_as_it_is():
    model = tiny_model(freeze=True).train()
    assert not any(m.training for m in model.backbone.trunk.modules())
    assert not any(p.requires_grad for p in model.backbone.parameters())
    sum(model([tiny_input(3)]).values()).backward()
    assert all(p.grad is None for p in model.backbone.parameters())


@torch.no_grad()
def test_inference_output():
    model = tiny_model().eval()
    inputs = [tiny_input(1), tiny_input(1, 48, 40)]
    inputs[0].update(height=131, width=177)
    for result, (height, width) in zip(model(inputs), [(131, 177), (48, 40)], strict=True):
        instances, relations, pairs = result["instances"], result["relations"], result["pairs"]
        count = len(instances)
        assert instances.pred_masks.shape == (count, height, width) and instances.pred_masks.dtype == torch.bool
        assert instances.pred_masks.flatten(1).any(1).all()
        panoptic, segments = result["panoptic_seg"]
        assert panoptic.shape == (height, width) and panoptic.dtype == torch.int32
        assert set(panoptic.unique().tolist()) <= {0} | {s["id"] for s in segments}
        assert (relations["subject"] != relations["object"]).all()
        assert (relations["score"].diff() <= 0).all()
        assert max(relations["subject"].max(), relations["object"].max()) < count
        assert (pairs["score"].diff() <= 0).all()
        assert len(set(zip(pairs["subject"].tolist(), pairs["object"].tolist(), strict=True))) == len(pairs["score"])


@torch.no_grad()
def test_masks_of_a_large_image_are_made_some_at_a_time(monkeypatch):
    model = tiny_model(object_threshold=0.0, overlap_threshold=0.1).eval()
    inputs = [{**tiny_input(1), "height": 131, "width": 177}]
    whole = model(inputs)[0]
    sizes = []
    monkeypatch.setattr("usg_psg.inference.panoptic.CPU_MASK_PIXELS", 5 * 131 * 177 + 1)

    def counted(part, *rest):
        sizes.append(len(part))
        return resize_masks(part, *rest)

    monkeypatch.setattr("usg_psg.inference.panoptic.resize_masks", counted)
    parts = model(inputs)[0]
    assert sizes == [5, 5, 2], "12 queries"
    assert torch.equal(parts["instances"].pred_masks, whole["instances"].pred_masks)
    assert torch.equal(parts["panoptic_seg"][0], whole["panoptic_seg"][0]) and whole["panoptic_seg"][0].any()
    assert parts["panoptic_seg"][1] == whole["panoptic_seg"][1]


def test_a_backbone_with_other_channels_than_it_says_is_named():
    model = tiny_model()
    features = model.backbone(torch.zeros(1, 3, 64, 64))
    channels = features["res4"].shape[1]
    features["res4"] = features["res4"][:, 1:]
    with pytest.raises(
        ValueError, match=f"res4: the backbone gives {channels - 1} .* its output_shape says {channels}"
    ):
        model.pixel_decoder(features)


@pytest.mark.parametrize("sizes", [[(64, 96)], [(50, 70)], [(50, 70), (64, 33)], [(32, 32), (32, 32)]])
def test_images_are_normalised_and_padded(sizes):
    model = tiny_model()
    model.pixel_mean += torch.tensor([0.1, 3.3, 7.7])[:, None, None]
    rows = [torch.randint(0, 256, (*size, 3), dtype=torch.uint8) for size in sizes]
    images = [rows[0].permute(2, 0, 1), *(x.permute(2, 0, 1).contiguous() for x in rows[1:])]
    found = model.preprocess([{"image": x} for x in images])
    expected = ImageList.from_tensors([(x.float() - model.pixel_mean) / model.pixel_std for x in images], 32)
    assert torch.equal(found.tensor, expected.tensor) and found.tensor.is_contiguous()
    assert found.image_sizes == expected.image_sizes == sizes


@NEEDS_GPU
def test_images_copied_beside_other_work_are_the_same():
    model = tiny_model()
    inputs = [{"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8)} for size in ((50, 70), (64, 33))]
    expected = model.preprocess(inputs).tensor
    model.cuda().train()
    pinned = [{"image": x["image"].pin_memory()} for x in inputs]
    for _ in range(20):
        torch.testing.assert_close(model.preprocess(pinned).tensor.cpu(), expected)


@NEEDS_GPU
def test_mask_features_and_their_gradient_have_the_channels_of_a_pixel_side_by_side_on_a_gpu():
    """Otherwise a layout is copied to the other in every step, 200 MB for 16 images of 640 x 640 pixels."""
    model = tiny_model().cuda().train()
    layouts = {}
    decode = model.pixel_decoder.forward

    def forward(features):
        output = decode(features)
        mask_features = output.mask_features
        layouts["features"] = mask_features.is_contiguous(memory_format=torch.channels_last)
        mask_features.register_hook(
            lambda grad: layouts.update(gradient=grad.is_contiguous(memory_format=torch.channels_last))
        )
        return output

    model.pixel_decoder.forward = forward
    with torch.autocast("cuda", dtype=torch.bfloat16):
        sum(model([tiny_input(), tiny_input()]).values()).backward()
    assert layouts == {"features": True, "gradient": True}


@torch.no_grad()
def test_relation_score_is_the_product_of_the_four_scores():
    model = tiny_model().eval()
    inputs = [tiny_input(1)]
    result = model(inputs)[0]
    images = model.preprocess(inputs)
    features = model.pixel_decoder(model.backbone(images.tensor))
    queries = model.mask_decoder(features).queries[-1]
    object_score = model.class_head(queries, model.object_text).sigmoid().amax(-1)[0]
    proposals = model.relation_head.propose(queries)
    predicate = model.relation_head.decode(queries, proposals, features, model.predicate_text).sigmoid()[0]
    pair = proposals.selected_logits().sigmoid()[0]
    products = (object_score[proposals.subject_index[0]] * object_score[proposals.object_index[0]] * pair)[
        :, None
    ] * predicate
    assert len(result["instances"]) == len(object_score), "all random masks have pixels, so no index moves"
    best = products.flatten().sort(descending=True).values[: len(result["relations"]["score"])]
    torch.testing.assert_close(result["relations"]["score"][:50], best[:50])


@torch.no_grad()
def test_a_batch_gives_what_its_images_give_alone():
    model = tiny_model().eval()
    inputs = [tiny_input(1, 64, 64), tiny_input(1, 64, 64)]
    together = model(inputs)
    for single, batched in zip([model([x])[0] for x in inputs], together, strict=True):
        torch.testing.assert_close(single["instances"].scores, batched["instances"].scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(single["relations"]["score"], batched["relations"]["score"], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_vocabulary_can_be_swapped():
    """The same words get the same scores wherever they stand in the vocabulary."""
    model = tiny_model().eval()
    inputs = [tiny_input(1)]
    before = model(inputs)[0]
    objects, predicates, is_thing = model.object_text, model.predicate_text, model.is_thing
    order = torch.tensor([2, 0, 1])
    model.set_vocabulary(TextEmbeddings(objects[order], predicates.flip(0), is_thing[order].tolist()))
    after = model(inputs)[0]
    torch.testing.assert_close(order[after["instances"].pred_classes], before["instances"].pred_classes)
    torch.testing.assert_close(after["relations"]["score"], before["relations"]["score"])
    torch.testing.assert_close(len(predicates) - 1 - after["relations"]["predicate"], before["relations"]["predicate"])
    model.set_vocabulary(TextEmbeddings(objects[:1], predicates[:2], [True]))
    assert (model(inputs)[0]["instances"].pred_classes == 0).all()
    with pytest.raises(ValueError, match="is_thing"):
        TextEmbeddings(objects, predicates, [True])


@torch.no_grad()
def test_predcls_relates_the_given_objects_only():
    model = tiny_model(num_pairs=60).eval()
    inputs = [tiny_input(3), tiny_input(0), tiny_input(1)]
    for x in inputs:
        h, w = x["image"].shape[1:]
        owner = torch.randint(0, max(len(x["instances"]), 1), (h, w))
        x["instances"].gt_masks = (
            torch.stack([owner == i for i in range(len(x["instances"]))])
            if len(x["instances"])
            else torch.zeros(0, h, w, dtype=torch.bool)
        )
        x["original_masks"] = x["instances"].gt_masks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    for x, result in zip(inputs, model(inputs), strict=True):
        instances, relations = result["instances"], result["relations"]
        assert torch.equal(instances.pred_masks, x["original_masks"])
        assert torch.equal(instances.pred_classes, x["instances"].gt_classes)
        count = len(instances)
        assert len(result["pairs"]["score"]) == count * (count - 1), "every pair of given objects, none else"
        assert len(relations["score"]) == min(count * (count - 1) * len(model.predicate_text), 200)
        panoptic, segments = result["panoptic_seg"]
        for i, info in enumerate(segments):
            assert torch.equal(panoptic == info["id"], x["original_masks"][i])


def test_vocabulary_is_not_part_of_the_weights():
    assert not [k for k in tiny_model().state_dict() if "text" in k or "thing" in k]


def test_masks_keep_their_place_through_padding_and_resizing():
    """A mask that covers exactly the left half of the image covers it at any output size."""
    logits = torch.full((1, 16, 24), -10.0)  # stride 4 of a 64 x 96 batch; the image is 60 x 80
    logits[:, :, :10] = 10.0  # x < 40 of 80
    for height, width in [(60, 80), (120, 160), (30, 40)]:
        mask = resize_masks(logits, (64, 96), (60, 80), (height, width))[0] > 0
        expected = torch.zeros(height, width, dtype=torch.bool)
        expected[:, : width // 2] = True
        assert (mask != expected).float().mean() < 0.02
        assert F.l1_loss(mask.float().mean(), torch.tensor(0.5)) < 0.02
