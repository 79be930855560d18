"""The parts by themselves: selection of pairs, cosine logits, decoders, positions, backbone."""

import math

import pytest
import timm
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.backends.cuda import cudnn_sdp_enabled

from usg_psg.config import build_cfg
from usg_psg.modeling import MaskDecoder, OpenCLIPConvNeXt, OpenVocabularyHead, RelationProposalConstructor
from usg_psg.modeling.layers import (
    CosineLogits,
    MultiheadAttention,
    _Double,
    _doubled,
    downsample,
    sine_position,
    upsample,
)
from usg_psg.modeling.openclip import load_openclip
from usg_psg.modeling.openclip_convnext import _with_scales_folded
from usg_psg.modeling.relation_head import RelationDecoder, RelationHead, RelationQueries
from usg_psg.modeling.rpc import select_pairs
from usg_psg.structures import PixelDecoderOutput

from ..tiny import tiny_model

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def pixel_features(batch=2, dim=16, size=(32, 48)):
    levels = [torch.randn(batch, dim, size[0] // s, size[1] // s) for s in (8, 4, 2)]
    return PixelDecoderOutput(torch.randn(batch, dim, *size), levels)


def test_selection_never_takes_a_query_with_itself_and_keeps_the_best():
    logits = torch.randn(4, 7, 7)
    logits[:, torch.arange(7), torch.arange(7)] = 100.0
    subject, object_ = select_pairs(logits, 15)
    assert (subject != object_).all()
    off_diagonal = logits.masked_fill(torch.eye(7, dtype=torch.bool), -torch.inf).flatten(1)
    expected = off_diagonal.sort(dim=1, descending=True).values[:, :15]
    torch.testing.assert_close(logits[torch.arange(4)[:, None], subject, object_], expected)


def test_selection_of_all_pairs_takes_each_once():
    subject, object_ = select_pairs(torch.randn(1, 5, 5), 20)
    assert set(zip(subject[0].tolist(), object_[0].tolist(), strict=True)) == {
        (i, j) for i in range(5) for j in range(5) if i != j
    }


def test_selection_puts_pairs_with_priority_first():
    priority = torch.zeros(1, 5, 5, dtype=torch.bool)
    priority[0, 3, 1] = priority[0, 0, 4] = True
    subject, object_ = select_pairs(torch.randn(1, 5, 5), 3, priority)
    assert {(3, 1), (0, 4)} <= set(zip(subject[0].tolist(), object_[0].tolist(), strict=True))


def test_pairs_with_priority_are_in_the_order_of_their_own_logits():
    """Logits that differ by less than the priority's last digit in float32."""
    order = torch.randperm(90)
    logits = torch.full((10, 10), -1.0)
    logits[~torch.eye(10, dtype=torch.bool)] = 0.5 + 1e-5 * order
    subject, object_ = select_pairs(logits[None], 90, torch.ones(1, 10, 10, dtype=torch.bool))
    assert (logits[subject[0], object_[0]].diff() < 0).all()


@pytest.mark.parametrize("num_pairs", [0, 21])
def test_selection_refuses_impossible_numbers(num_pairs):
    with pytest.raises(ValueError, match="num_pairs"):
        select_pairs(torch.randn(1, 5, 5), num_pairs)


def test_pair_confidence_is_the_cosine_of_projected_queries():
    rpc = RelationProposalConstructor(16, num_layers=0, num_heads=4, num_pairs=5, logit_scale=CosineLogits("fixed"))
    queries = torch.randn(2, 6, 16)
    expected = torch.cosine_similarity(rpc.subject_mlp(queries)[:, :, None], rpc.object_mlp(queries)[:, None], dim=-1)
    torch.testing.assert_close(rpc.pair_logits(queries), expected)


def test_proposals_report_the_logits_they_were_selected_by():
    proposals = RelationProposalConstructor(16, 2, 4, 9)(torch.randn(2, 6, 16))
    assert (proposals.selected_logits().diff(dim=1) <= 0).all()


def test_cosine_logits():
    cosine = torch.tensor([-1.0, 0.0, 0.5])
    torch.testing.assert_close(CosineLogits("fixed")(cosine), cosine)
    learnable = CosineLogits("learnable", scale_init=10.0, prior_prob=0.01)
    torch.testing.assert_close(learnable(cosine).sigmoid()[1], torch.tensor(0.01))
    torch.testing.assert_close(learnable(cosine), 10 * cosine + math.log(0.01 / 0.99))
    learnable.log_scale.data.fill_(50.0)
    assert learnable(cosine).isfinite().all()
    with pytest.raises(ValueError, match="mode: expected"):
        CosineLogits("none")


def test_class_logits_depend_on_directions_only():
    head = OpenVocabularyHead(8, 12)
    text = torch.nn.functional.normalize(torch.randn(5, 12), dim=-1)
    features = torch.randn(2, 3, 8)
    logits = head(features, text)
    assert logits.shape == (2, 3, 5)
    assert (logits.sub(head.logit_scale.bias).abs() <= head.logit_scale.log_scale.exp() + 1e-4).all()
    with pytest.raises(ValueError, match="width"):
        head(features, torch.randn(5, 13))


def test_attention_is_that_of_pytorch():
    """Same parameters, same numbers as torch.nn.MultiheadAttention, with and without a mask."""
    ours, theirs = MultiheadAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    query, memory = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    torch.testing.assert_close(ours(query, memory, memory), theirs(query, memory, memory)[0], atol=1e-5, rtol=1e-4)
    keep = torch.rand(2, 5, 9) > 0.5
    keep[..., 0] = True
    expected = theirs(query, memory, memory, attn_mask=~keep.repeat_interleave(4, dim=0))[0]
    torch.testing.assert_close(ours(query, memory, memory, keep), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_attention_asks_cudnn_for_gradients_alone_and_for_none_of_half_a_tile(training, monkeypatch):
    """Tensors without values are on a GPU that need not be there."""
    calls, attend = [], torch.nn.functional.scaled_dot_product_attention

    def noted(q, k, v, attn_mask=None):
        calls.append((k.shape[2], None if attn_mask is None else attn_mask.shape[-1], cudnn_sdp_enabled()))
        return attend(q, k, v, attn_mask)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            attention = MultiheadAttention(16, 4).train(training)
        for keys in (64, 128, 1600):
            query, memory = (torch.empty(2, n, 16, device="cuda") for n in (5, keys))
            keep = torch.empty(2, 5, keys, dtype=torch.bool, device="cuda")
            assert attention(query, memory, memory, keep).shape == attention(query, memory, memory).shape == (2, 5, 16)
        attention(query[:1], memory[:1], memory[:1], keep[:1])
    padded = (128, 128, 1664) if training else (64, 128, 1600)
    assert calls[:6:2] == [(n, n, training) for n in padded]
    assert calls[1:6:2] == [(64, None, False), (128, None, training), (1600, None, False)]
    assert calls[6:] == [(padded[2], padded[2], True)], "with a mask, one image leaves it to the caller"


@needs_gpu
@pytest.mark.parametrize("has_mask", [True, False])
@pytest.mark.parametrize("keys", [64, 400, 1600, 6400])
def test_gradients_of_attention_are_finite_where_all_scores_are_low(keys, has_mask):
    """Every score is -120, and exp(120) is beyond float32; as float64 has them on the CPU."""
    dim, heads = 64, 2
    attention = MultiheadAttention(dim, heads)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.eye(dim).repeat(3, 1))
    query, memory, value = (0.1 * torch.randn(2, n, dim).bfloat16() for n in (100, keys, keys))
    query[..., :: dim // heads] = 1
    memory[..., :: dim // heads] = -120 * math.sqrt(dim / heads)
    keep = torch.rand(2, 100, keys) < 0.5
    keep[..., 0] = True
    found = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.bfloat16)):
        attention.to(device, dtype)
        inputs = [x.to(device, dtype).requires_grad_() for x in (query, memory, value)]
        out = attention(*inputs, keep.to(device) if has_mask else None)
        of_query, *others = torch.autograd.grad(out[..., 1].sum(), inputs)
        of_query[..., :: dim // heads] = 0  # sums of the memory's large channel that cancel, but for rounding
        found.append([out, of_query, *others])
    for expected, actual in zip(*found, strict=True):
        error = (actual.cpu().double() - expected).norm() / expected.norm()
        assert error < 0.05, error


@pytest.mark.parametrize("layer_order", ["self_first", "cross_first"])
def test_mask_decoder_predicts_before_and_after_every_layer(layer_order):
    decoder = MaskDecoder(hidden_dim=16, num_queries=5, num_layers=4, num_heads=4, ffn_dim=8, layer_order=layer_order)
    output = decoder(pixel_features())
    assert output.queries.shape == output.mask_embeddings.shape == (5, 2, 5, 16)
    assert not torch.equal(output.queries[0], output.queries[1])


def test_attention_mask_is_the_resized_mask_and_never_empty():
    """Resizing features and then predicting equals predicting and then resizing, and an empty mask means everywhere."""
    features, embeddings = torch.randn(1, 8, 16, 16), torch.randn(1, 3, 8)
    resized = torch.nn.functional.interpolate(features, size=(4, 4), mode="bilinear").flatten(2)
    masks = torch.einsum("bqd,bdhw->bqhw", embeddings, features)
    expected = torch.nn.functional.interpolate(masks, size=(4, 4), mode="bilinear").flatten(2).sigmoid() >= 0.5
    keep = MaskDecoder._attention_mask(embeddings, resized)
    assert expected.any(-1).all() and torch.equal(keep, expected)
    nothing = MaskDecoder._attention_mask(torch.ones(1, 2, 8), -torch.ones(1, 8, 4))
    assert nothing.all()


def test_relation_queries_use_subject_and_object_in_order():
    for form in ("concat", "embedded"):
        build = RelationQueries(8, form)
        queries = torch.randn(1, 4, 8)
        there = build(queries, torch.tensor([[0]]), torch.tensor([[1]]))
        back = build(queries, torch.tensor([[1]]), torch.tensor([[0]]))
        assert not torch.allclose(there, back)
    with pytest.raises(ValueError, match="form: expected"):
        RelationQueries(8, "sum")


@pytest.mark.parametrize("detach", [False, True])
def test_pair_logits_can_leave_the_queries_alone(detach):
    queries = torch.randn(1, 5, 16, requires_grad=True)
    rpc = RelationProposalConstructor(16, 1, 4, 6, detach_queries=detach)
    rpc.pair_logits(queries).square().sum().backward()
    assert (queries.grad is None) == detach and rpc.subject_mlp.layers[0].weight.grad.abs().sum() > 0
    node = "MODEL.USG.RELATION_HEAD.RPC"
    built = RelationHead(build_cfg(opts=[f"{node}.DETACH_QUERIES", str(detach), f"{node}.PRIOR_PROB", "0.25"]), 64).rpc
    assert built.detach_queries == detach
    assert built.logit_scale.bias.sigmoid().item() == pytest.approx(0.25), "of a cosine of zero, at the start"


def test_relation_decoder_levels():
    features = pixel_features()
    relations = torch.randn(2, 7, 16)
    assert RelationDecoder(16, 3, 4, 8, (2,))(relations, features).shape == (2, 7, 16)
    assert torch.equal(RelationDecoder(16, 0, 4, 8)(relations, features), relations)
    with pytest.raises(ValueError, match="feature_levels: expected"):
        RelationDecoder(16, 3, 4, 8, (3,))


def test_positions_tell_every_place_apart():
    code = sine_position(5, 7, 16, torch.device("cpu")).flatten(1).t()
    distance = torch.cdist(code, code) + 10 * torch.eye(35)
    assert distance.min() > 0.05
    with pytest.raises(ValueError, match="multiple of 4"):
        sine_position(2, 2, 6, torch.device("cpu"))


@pytest.mark.parametrize(("height", "width", "dim"), [(1, 7, 16), (16, 20, 32), (33, 5, 96)])
def test_positions_are_the_published_formula_to_the_last_bit(height, width, dim):
    """sin and cos of 2 pi (i + 1) / (size + 1e-6) / 10000^(2 k / half), each step rounded to float32."""
    code, half = sine_position(height, width, dim, torch.device("cpu")), dim // 2
    wavelengths = 10000 ** (2 * torch.arange(half // 2) / half)
    for first, size, values in ((0, height, code[:, :, 0]), (half, width, code[:, 0, :])):
        place = torch.arange(1, size + 1, dtype=torch.float32)
        place = place / (torch.tensor(float(size)) + torch.tensor(1e-6)) * torch.tensor(2 * math.pi)
        for k in range(half // 2):
            angle = place / wavelengths[k]
            assert torch.equal(values[first + 2 * k], angle.sin()), (size, k)
            assert torch.equal(values[first + 2 * k + 1], angle.cos()), (size, k)


def test_backbone_strides_and_channels():
    backbone = OpenCLIPConvNeXt(load_openclip("usg_convnext_zepto").visual.trunk, freeze=True)
    features = backbone(torch.randn(1, 3, 64, 96))
    for name, shape in backbone.output_shape().items():
        assert features[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)
    assert not any(f.requires_grad for f in features.values())


def test_backbone_refuses_what_is_not_a_convnext():
    with pytest.raises(ValueError, match="ConvNeXt"):
        OpenCLIPConvNeXt(nn.Linear(2, 2))


@pytest.mark.parametrize("size", [(4, 6), (8, 12), (16, 24), (5, 7), (8, 6), (16, 3)])
def test_shrinking_maps_is_bilinear_resampling(size):
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(downsample(x, size), expected)


@pytest.mark.parametrize("size", [(10, 14), (9, 14), (10, 13), (11, 20)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_enlarging_maps_is_bilinear_resampling(size, channels_last):
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    given = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    expected = torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(given, size), expected)
    weight = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((upsample(given, size) * weight).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * weight).sum(), x)[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 7)])
def test_a_map_is_doubled_alike_with_and_without_a_compiler(size):
    x = torch.randn(2, *size, 3, dtype=torch.float64, requires_grad=True)
    for dim in (1, 2):
        found, expected = _Double.apply(x, dim), _doubled(x, dim)
        torch.testing.assert_close(found, expected)
        weight = torch.randn_like(expected)
        gradients = [torch.autograd.grad((each * weight).sum(), x)[0] for each in (found, expected)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_a_frozen_backbone_computes_in_its_own_type(device):
    """On a GPU, from a copy of the weights that follows when others are loaded."""
    backbone = tiny_model(freeze=True).backbone.to(device)
    assert not any("_reduced" in name for name in backbone.state_dict())
    image = torch.randn(1, 3, 64, 96, device=device)
    for _ in range(2):
        exact = backbone._features(backbone.trunk, image, torch.float32)
        reduced = backbone._features(backbone._in_frozen_dtype(), image.bfloat16(), torch.float32)
        for name, feature in backbone(image).items():
            assert feature.dtype == torch.float32 and not feature.requires_grad
            torch.testing.assert_close(feature, (exact if device == "cpu" else reduced)[name])
            error = (reduced[name] - exact[name]).norm() / exact[name].norm()
            assert 0 < error < 0.03
        address = next(backbone._in_frozen_dtype().parameters()).data_ptr()
        backbone.load_state_dict({name: x * 1.1 for name, x in backbone.state_dict().items()})
        assert next(backbone._in_frozen_dtype().parameters()).data_ptr() == address


def test_folding_the_layer_scales_changes_no_feature():
    """In a trunk with linear layers, as the full-size one has; the small ones of this project have convolutions."""
    trunk = timm.create_model("convnext_atto", depths=(1, 1, 2, 1), dims=(8, 8, 16, 16), conv_mlp=False)
    for name, parameter in trunk.named_parameters():
        if name.endswith(("gamma", "fc2.bias")):  # by default next to nothing, and nothing
            nn.init.normal_(parameter)
    backbone = OpenCLIPConvNeXt(trunk, freeze=True)
    before = {name: x.clone() for name, x in backbone.state_dict().items()}
    folded = _with_scales_folded(backbone.trunk)
    assert not any(name.endswith("gamma") for name, _ in folded.named_parameters())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = backbone._features(folded, image, torch.float32)
    for name, expected in backbone(image).items():
        torch.testing.assert_close(features[name], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_a_backbone_that_is_frozen_in_float32_computes_in_float32_under_autocast(device):
    trunk = load_openclip("usg_convnext_zepto").visual.trunk
    backbone = OpenCLIPConvNeXt(trunk, freeze=True, frozen_dtype="float32").to(device)
    image = torch.randn(1, 3, 64, 96, device=device)
    exact = backbone(image)
    with torch.autocast(device, dtype=torch.bfloat16):
        features = backbone(image)
    for name, feature in features.items():
        torch.testing.assert_close(feature, exact[name].bfloat16(), rtol=2**-7, atol=1e-6)  # the last bit
