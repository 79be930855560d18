"""CLIP's own class scores: pooled features, the geometric ensemble, and the model with and without it."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from usg_psg.config import build_cfg
from usg_psg.config.checks import value_problems
from usg_psg.modeling import OpenCLIPConvNeXt
from usg_psg.modeling.clip_ensemble import CLIPEnsemble, CLIPVisualHead, build_clip_ensemble, geometric_ensemble
from usg_psg.modeling.openclip import load_openclip

from ..tiny import CLIP_NAME, OBJECTS, object_predictions, tiny_input, tiny_model

NODE = "MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE"


@pytest.fixture(scope="module")
def clip():
    return load_openclip(CLIP_NAME)


def backbone_with_head():
    clip = load_openclip(CLIP_NAME)  # of its own, as trunks are shared
    return OpenCLIPConvNeXt(
        clip.visual.trunk,
        weights_identity={"model": CLIP_NAME},
        visual_head=CLIPVisualHead(clip.visual, clip.logit_scale),
    )


def test_ensemble_is_fc_clip_s_formula_with_the_model_s_total_odds():
    """e_c proportional to p_c^(1-w_c) q_c^w_c of two softmaxes; e_c (1 - p_void), p_void = 1 / (1 + sum of odds)."""
    logits, clip_logits = [0.3, -1.2, -4.0], [10.0, 14.5, 13.0]
    weights = [0.4, 0.8, 0.8]
    odds = [math.exp(x) for x in logits]
    total = sum(math.exp(x) for x in clip_logits)
    products = [
        (o / sum(odds)) ** (1 - w) * (math.exp(x) / total) ** w
        for o, x, w in zip(odds, clip_logits, weights, strict=True)
    ]
    ensemble = [x / sum(products) for x in products]
    mixed = geometric_ensemble(*map(torch.tensor, (logits, clip_logits, weights)))
    expected = [math.log(e * sum(odds)) for e in ensemble]
    torch.testing.assert_close(mixed, torch.tensor(expected))
    void = 1 / (1 + sum(odds))
    together = 1 + mixed.exp().sum().item()
    probabilities = [x / together for x in mixed.exp().tolist()]
    assert probabilities == pytest.approx([e * (1 - void) for e in ensemble], rel=1e-5)


def test_without_weight_the_logits_stay():
    logits = torch.randn(2, 5, 7) * 5
    torch.testing.assert_close(geometric_ensemble(logits, torch.randn(2, 5, 7) * 30, torch.zeros(7)), logits)


def test_features_pooled_over_the_whole_image_are_clip_s_image_embedding(clip):
    image = torch.randn(2, 3, 96, 64)
    backbone, text = backbone_with_head().eval(), F.normalize(torch.randn(4, 64), dim=-1)
    logits = backbone.visual_head(backbone(image)["res5"], torch.ones(2, 1, 3, 2, dtype=torch.bool), text)
    with torch.no_grad():
        expected = clip.logit_scale.exp() * clip.encode_image(image, normalize=True) @ text.t()
    torch.testing.assert_close(logits[:, 0], expected)


def test_features_are_averaged_inside_of_each_mask(clip):
    head = CLIPVisualHead(clip.visual, clip.logit_scale)
    dense, inside = torch.randn(2, 256, 3, 4), torch.rand(2, 5, 3, 4) > 0.5
    text = F.normalize(torch.randn(4, 64), dim=-1)
    logits = head(dense, inside, text)
    with torch.no_grad():
        for image in range(2):
            for query in range(5):
                mean = dense[image][:, inside[image, query]].mean(dim=1)
                embedding = clip.visual.head(clip.visual.trunk.head(mean[None, :, None, None]))
                expected = clip.logit_scale.exp() * F.normalize(embedding, dim=-1) @ text.t()
                torch.testing.assert_close(logits[image, query], expected[0])


def test_names_are_seen_if_any_of_their_words_was_trained_on():
    ensemble = CLIPEnsemble(["person,human", "sky-other-merged", "dining table"], alpha=0.25, beta=0.75)
    ensemble.set_names(["Human", "child,person", "sky", "dining-table", "table", "cat"])
    assert ensemble.weight.tolist() == [0.25, 0.25, 0.25, 0.25, 0.75, 0.75]


def test_a_query_without_a_pixel_keeps_its_scores(clip):
    head, ensemble = CLIPVisualHead(clip.visual, clip.logit_scale), CLIPEnsemble(["a"])
    ensemble.set_names(["a", "b"])
    logits, features = torch.randn(1, 2, 2), torch.ones(1, 1, 32, 32)
    embeddings = torch.tensor([[[-1.0], [1.0]]])  # no pixel; every pixel
    text = F.normalize(torch.randn(2, 64), dim=-1)
    objects = object_predictions(logits[None], embeddings[None], features)
    mixed = ensemble(objects, torch.randn(1, 256, 4, 4), text, head).class_logits[0]
    assert torch.equal(mixed[0, 0], logits[0, 0]) and not torch.equal(mixed[0, 1], logits[0, 1])


def test_the_option_changes_scores_and_neither_parameters_nor_keys():
    plain = tiny_model(freeze=True).eval()
    ensemble = CLIPEnsemble(OBJECTS[:1], alpha=0.0, beta=0.0)
    model = tiny_model(backbone=backbone_with_head(), clip_ensemble=ensemble, object_names=OBJECTS).eval()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [p.shape for p in model.parameters()] == [p.shape for p in plain.parameters()]
    assert plain.clip_ensemble is None and plain.backbone.visual_head is None
    model.load_state_dict(plain.state_dict())
    inputs = [tiny_input()]
    scores = []
    for beta in (None, 0.0, 0.8):
        if beta is not None:
            ensemble.beta = beta
            model.set_vocabulary(model.vocabulary)
        with torch.no_grad():
            scores.append((plain if beta is None else model)(inputs)[0]["instances"].scores)
    torch.testing.assert_close(scores[1], scores[0])
    assert not torch.allclose(scores[2], scores[0])
    assert model.double().backbone.visual_head.head[1][1].weight.dtype == torch.float64, "it moves with the backbone"
    with pytest.raises(ValueError, match="object_names: CLIP_ENSEMBLE needs the names of the classes, got none"):
        model.set_vocabulary(dataclasses.replace(model.vocabulary, object_names=None))
    with pytest.raises(ValueError, match="visual head"):
        tiny_model(clip_ensemble=ensemble, object_names=OBJECTS)


def test_configuration(tmp_path):
    assert build_clip_ensemble(build_cfg()) is None
    cfg = build_cfg(opts=[f"{NODE}.ENABLED", "True", f"{NODE}.BETA", "0.7", "DATASETS.TRAIN", "('psg_train',)"])
    ensemble = build_clip_ensemble(cfg)
    ensemble.set_names(["sky", "unicorn"])
    assert ensemble.weight.tolist() == pytest.approx([0.4, 0.7])
    words = tmp_path / "words.yaml"
    words.write_text("thing_classes: [unicorn]\npredicate_classes: [over]\nsynonyms: {unicorn: [one-horned horse]}\n")
    cfg.merge_from_list([f"{NODE}.SEEN", str(words)])
    ensemble = build_clip_ensemble(cfg)
    ensemble.set_names(["sky", "unicorn", "one horned horse"])
    assert ensemble.weight.tolist() == pytest.approx([0.7, 0.4, 0.4])
    cfg.merge_from_list([f"{NODE}.SEEN", "", "DATASETS.TRAIN", "()"])
    with pytest.raises(ValueError, match=r"CLIP_ENSEMBLE\.SEEN: DATASETS\.TRAIN is empty"):
        build_clip_ensemble(cfg)


def test_clip_s_own_scores_need_clip_s_own_weights():
    assert not value_problems(build_cfg(opts=[f"{NODE}.ENABLED", "True"]))
    for key, value in (("FREEZE", "False"), ("PRETRAINED", "")):
        problems = value_problems(build_cfg(opts=[f"{NODE}.ENABLED", "True", f"MODEL.CLIP.{key}", value]))
        assert len(problems) == 1 and "needs CLIP's own weights" in problems[0]
    assert "from 0 to 1" in value_problems(build_cfg(opts=[f"{NODE}.ALPHA", "1.5"]))[0]
    clip = load_openclip(CLIP_NAME)
    with pytest.raises(ValueError, match="FREEZE"):
        OpenCLIPConvNeXt(clip.visual.trunk, freeze=False, visual_head=CLIPVisualHead(clip.visual, clip.logit_scale))
