"""Published checkpoints: every name accounted for, and the converted parts compute what the published ones do."""

import pytest
import torch
from detectron2.modeling import build_model

from usg_psg.config import build_cfg
from usg_psg.pretrained.convert import check_record, choose_layers, choose_queries, convert, target_model
from usg_psg.pretrained.report import format_conversion

from ..modeling import restated
from .foreign import fcclip_shapes, mask2former_shapes, meta_weights, random_weights

RECIPE = "psg/usg_par_convnext_large.yaml"
PUBLISHED = ["MODEL.USG.MASK_DECODER.NUM_LAYERS", "9", "MODEL.USG.MASK_DECODER.LAYER_ORDER", "cross_first"]
SMALL_D = 128  # the least width with Mask2Former's 32 groups
SMALL = ["MODEL.USG.HIDDEN_DIM", str(SMALL_D), "MODEL.USG.MASK_DECODER.FFN_DIM", "64"]
SMALL += ["MODEL.USG.PIXEL_DECODER.FFN_DIM", "32", "MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS", "20"]


def target(*opts: str):
    return target_model(build_cfg(RECIPE, list(opts)))


def with_queries(count: int) -> list[str]:
    return ["MODEL.USG.MASK_DECODER.NUM_QUERIES", str(count)]


@pytest.fixture(scope="module")
def full_target():
    return target()


def test_the_shapes_are_those_of_the_model_that_is_built():
    cfg = build_cfg("quickstart/usg_par_quickstart.yaml", ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", "('psg_train',)"])
    built = {name: value.shape for name, value in build_model(cfg).state_dict().items()}
    assert {name: value.shape for name, value in target_model(cfg).state_dict().items()} == built


@pytest.mark.parametrize(
    "source, shapes, with_backbone, used",
    [
        # 18 parameters of each of 6 decoder layers, 16 of each encoder layer, and the rest by name
        ("fcclip", fcclip_shapes(), False, 6 * 18 + 6 * 16 + 39),
        ("fcclip", fcclip_shapes(), True, 6 * 18 + 6 * 16 + 39 + 340),
        ("mask2former", mask2former_shapes(), False, 6 * 18 + 6 * 16 + 17),
        ("mask2former", mask2former_shapes(queries=200), False, 6 * 18 + 6 * 16 + 17),
    ],
    ids=["fcclip", "fcclip with backbone", "mask2former", "mask2former 200 queries"],
)
def test_every_published_parameter_is_used_or_left_out_with_a_reason(full_target, source, shapes, with_backbone, used):
    made = convert(meta_weights(shapes), source, full_target, with_backbone=with_backbone)
    accounted = [name for name, _ in made.used + made.left_out]
    assert sorted(accounted) == sorted(shapes)
    assert len(made.used) == used and all(reason for _, reason in made.left_out)
    own = [name for _, name in made.used] + [name for name, _ in made.new]
    assert sorted(own) == sorted(full_target.state_dict())
    text = format_conversion(made)
    assert f"used: {used} parameters" in text and "a start only" in text
    assert "decoder layers 0-5, queries 0-99" in text


def test_nothing_of_the_decoders_is_left_out_at_the_published_size():
    made = convert(meta_weights(fcclip_shapes()), "fcclip", target(*PUBLISHED, *with_queries(250)))
    left = {name for name, _ in made.left_out if name.startswith("sem_seg_head.")}
    assert left == {f"sem_seg_head.predictor._mask_pooling_proj.{i}.{x}" for i in (0, 1) for x in ("weight", "bias")}
    assert [n for n, _ in made.new if not n.startswith(("backbone.", "relation_head."))] == [
        "class_head.logit_scale.bias"
    ]


@pytest.mark.parametrize("sizes", [((2, 3), (4, 6), (8, 12), (16, 24)), ((3, 2), (5, 4), (9, 8), (17, 15))])
def test_converted_decoders_compute_what_the_published_ones_do(sizes):
    """Random weights under the published names, in double precision, against the restatement of the papers."""
    weights = random_weights(fcclip_shapes(SMALL_D, 9, 17, backbone=False, ffn=64), dtype=torch.float64)
    model = target(*PUBLISHED, *SMALL, *with_queries(17))
    made = convert(weights, "fcclip", model)
    parts = {name: model[name].to_empty(device="cpu").double() for name in ("pixel_decoder", "mask_decoder")}
    for name, part in parts.items():
        own = {k.removeprefix(f"{name}."): weights_ for k, weights_ in made.weights.items() if k.startswith(name)}
        part.load_state_dict(own, strict=True)
    torch.manual_seed(1)
    features = {
        f"res{5 - i}": torch.randn(2, channels, *size, dtype=torch.float64)
        for i, (channels, size) in enumerate(zip((1536, 768, 384, 192), sizes, strict=True))
    }
    # float32 weights are what is converted, so both sides use those.
    rounded = {name: value.float().double() for name, value in weights.items()}
    with torch.no_grad():
        mask_features, levels = restated.pixel_decoder(rounded, features)
        queries, masks, num_empty = restated.mask_decoder(rounded, mask_features, levels)
        pixel = parts["pixel_decoder"](features)
        decoded = parts["mask_decoder"](pixel)
    torch.testing.assert_close(pixel.mask_features, mask_features, atol=1e-5, rtol=0)
    for own, published in zip(pixel.multi_scale_features, levels, strict=True):
        torch.testing.assert_close(own, published, atol=1e-5, rtol=0)
    assert num_empty > 0, "the fallback of empty masks took part"
    assert len(decoded.queries) == 10
    for own, embedding, published, mask in zip(decoded.queries, decoded.mask_embeddings, queries, masks, strict=True):
        torch.testing.assert_close(own, published, atol=1e-5, rtol=0)
        logits = torch.einsum("bqd,bdhw->bqhw", embedding, pixel.mask_features)
        torch.testing.assert_close(logits, mask, atol=1e-5, rtol=0)


def test_class_head_and_scale_are_fcclip_s():
    weights = random_weights(fcclip_shapes(SMALL_D, 9, 17, backbone=False, ffn=64))
    model = target(*PUBLISHED, *SMALL, *with_queries(17))
    made = convert(weights, "fcclip", model)
    root = "sem_seg_head.predictor"
    for number in range(3):
        own = made.weights[f"class_head.projection.layers.{number}.weight"]
        assert torch.equal(own, weights[f"{root}.class_embed.layers.{number}.weight"])
    assert torch.equal(made.weights["class_head.logit_scale.log_scale"], weights[f"{root}.logit_scale"])
    fixed = convert(
        weights, "fcclip", target(*PUBLISHED, *SMALL, *with_queries(17), "MODEL.USG.CLASS_HEAD.LOGIT_SCALE", "fixed")
    )
    assert (f"{root}.logit_scale", "MODEL.USG.CLASS_HEAD.LOGIT_SCALE is 'fixed'") in fixed.left_out


def test_chosen_layers_and_queries_are_the_published_ones():
    weights = random_weights(fcclip_shapes(SMALL_D, 9, 20, backbone=False, ffn=64))
    model = target(*SMALL, *with_queries(5))
    made = convert(weights, "fcclip", model, layers=[0, 1, 2, 6, 7, 8], queries="spread")
    root = "sem_seg_head.predictor"
    for own, published in enumerate([0, 1, 2, 6, 7, 8]):
        value = weights[f"{root}.transformer_cross_attention_layers.{published}.multihead_attn.in_proj_weight"]
        assert torch.equal(made.weights[f"mask_decoder.layers.{own}.cross_attention.attention.in_proj_weight"], value)
    for own in ("query_feat", "query_embed"):
        rows = weights[f"{root}.{own}.weight"][[0, 4, 8, 12, 16]]
        assert torch.equal(made.weights[f"mask_decoder.{own}.weight"], rows)
    assert made.record["layers"] == [0, 1, 2, 6, 7, 8] and made.record["queries"] == [0, 4, 8, 12, 16]


def test_layers_keep_their_level():
    assert choose_layers(9, 6) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="layer 2 attends to level 2, but layer 1 here to level 1"):
        choose_layers(9, 3, [0, 2, 4])
    with pytest.raises(ValueError, match=r"0 to 8, got \[9\]"):
        choose_layers(9, 1, [9])
    with pytest.raises(ValueError, match="different numbers from 0 to"):
        choose_layers(9, 4, [0, 1, 2, 0])
    with pytest.raises(ValueError, match="expected 6 numbers"):
        choose_layers(9, 6, [0, 1, 2])
    with pytest.raises(ValueError, match="has 9 decoder layers, .* asks for 12"):
        choose_layers(9, 12)


def test_queries_are_chosen_or_refused():
    assert choose_queries(250, 100) == list(range(100))
    spread = choose_queries(250, 100, "spread")
    assert len(set(spread)) == 100 and spread[0] == 0 and 240 < spread[-1] < 250
    assert choose_queries(4, 2, [3, 1]) == [3, 1]
    for wrong in ([3, 3], [3, 4], [1]):
        with pytest.raises(ValueError, match="queries: expected"):
            choose_queries(4, 2, wrong)
    with pytest.raises(ValueError, match="has 100 queries, .* asks for 200"):
        choose_queries(100, 200)


def test_the_prefix_of_data_parallel_training_is_taken_off():
    plain = meta_weights(fcclip_shapes(backbone=False))
    model = target(*with_queries(100))
    made = convert({f"module.{name}": value for name, value in plain.items()}, "fcclip", model)
    assert made.used == convert(plain, "fcclip", model).used
    with pytest.raises(ValueError, match="has this name and module.sem_seg_head.predictor.logit_scale"):
        convert(plain | {"module.sem_seg_head.predictor.logit_scale": torch.zeros(())}, "fcclip", model)


def test_the_report_names_what_is_new_and_nothing_else(full_target):
    text = format_conversion(convert(meta_weights(fcclip_shapes()), "fcclip", full_target))
    _, new = text.split("newly initialised:")
    assert "class_head.logit_scale.bias" in new
    assert "logit_scale.*" not in new, "the scale itself comes from the checkpoint"


@pytest.mark.parametrize(
    "recipe, fcclip, mask2former",
    [
        ("psg/usg_par_convnext_large.yaml", None, None),
        ("psg/usg_par_best.yaml", None, "has 100 queries, MASK_DECODER.NUM_QUERIES asks for 250"),
        ("psg/usg_par_released.yaml", "does not fit class_head.projection.layers.0.weight", None),
        ("shapes/usg_par_shapes_512.yaml", "MODEL.CLIP.NAME", "does not fit pixel_decoder.level_embed"),
        ("quickstart/usg_par_quickstart.yaml", "NUM_HEADS", "NUM_HEADS"),
    ],
)
def test_recipes_that_can_start_from_published_weights(recipe, fcclip, mask2former):
    """docs/model_zoo.md lists them."""
    model = target_model(build_cfg(recipe))
    for source, shapes, message in (
        ("fcclip", fcclip_shapes(backbone=False), fcclip),
        ("mask2former", mask2former_shapes(), mask2former),
    ):
        if message is None:
            assert convert(meta_weights(shapes), source, model).used
        else:
            with pytest.raises(ValueError, match=message):
                convert(meta_weights(shapes), source, model)


def changed(name: str, value: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    weights = meta_weights(fcclip_shapes(backbone=False))
    if value is None:
        del weights[name]
    else:
        weights[name] = value
    return weights


NORM = "sem_seg_head.predictor.decoder_norm"


@pytest.mark.parametrize(
    "weights, message",
    [
        (changed("sem_seg_head.predictor.extra.weight", torch.zeros(1)), "predictor.extra.weight: no rule"),
        (changed(f"{NORM}.weight", torch.zeros(7)), r"decoder_norm.weight: shape \(7,\) does not fit .*\(256,\)"),
        (changed(f"{NORM}.bias"), "mask_decoder.decoder_norm.bias: the checkpoint has no weights for it"),
        (changed("sem_seg_head.predictor.static_query.weight", torch.zeros(250, 256)), "filled by another name"),
        (meta_weights(mask2former_shapes()), "no rule knows this name"),
        (
            changed("sem_seg_head.predictor.query_embed.weight", torch.zeros(100, 256)),
            "as many features as embeddings, got .*query_feat.weight 250, .*query_embed.weight 100",
        ),
    ],
    ids=["unknown", "shape", "missing", "twice", "another source", "queries"],
)
def test_what_does_not_fit_is_an_error_that_names_the_key(full_target, weights, message):
    with pytest.raises(ValueError, match=message):
        convert(weights, "fcclip", full_target)


@pytest.mark.parametrize(
    "opts, message",
    [
        (["MODEL.USG.MASK_DECODER.NUM_HEADS", "4"], "MASK_DECODER.NUM_HEADS: .* belong to 8, the recipe says 4"),
        (["MODEL.USG.PIXEL_DECODER.NUM_HEADS", "4"], "PIXEL_DECODER.NUM_HEADS"),
        (["MODEL.CLIP.NAME", "convnext_base"], "MODEL.CLIP.NAME: .*convnext_large_d_320"),
        (["MODEL.USG.PIXEL_DECODER.NUM_LAYERS", "7"], "pixel_decoder.layers.6.* the checkpoint has no weights"),
    ],
)
def test_recipe_that_would_misread_the_weights_is_refused(opts, message):
    with pytest.raises(ValueError, match=message):
        convert(meta_weights(fcclip_shapes()), "fcclip", target(*opts))


def test_mask2former_has_no_backbone_to_take_over(full_target):
    with pytest.raises(ValueError, match="no OpenCLIP backbone"):
        convert(meta_weights(mask2former_shapes()), "mask2former", full_target, with_backbone=True)


def test_a_file_without_the_backbone_cannot_give_it(full_target):
    with pytest.raises(ValueError, match="--with-backbone: the checkpoint has no weights of the backbone"):
        convert(meta_weights(fcclip_shapes(backbone=False)), "fcclip", full_target, with_backbone=True)


def test_record_is_compared_with_the_model(full_target):
    made = convert(meta_weights(fcclip_shapes()), "fcclip", full_target)
    check_record(made.record, made.weights, full_target)
    with pytest.raises(ValueError, match="LAYER_ORDER 'cross_first', converted for 'self_first'"):
        check_record(made.record, made.weights, target("MODEL.USG.MASK_DECODER.LAYER_ORDER", "cross_first"))
    with pytest.raises(ValueError, match="mask_decoder.layers.0.ffn.linear1.weight is"):
        check_record(made.record, made.weights, target("MODEL.USG.MASK_DECODER.FFN_DIM", "64"))
