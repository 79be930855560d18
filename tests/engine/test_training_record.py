"""What checkpoints say of their training, and the warnings where a model is used for something else."""

import json
from dataclasses import replace

import pytest

from usg_psg.config import build_cfg
from usg_psg.engine.training_record import GENERATED, OTHER, TrainingRecord, use_warnings
from usg_psg.modeling.text_embeddings import Phrases, text_identity

WORDS = Phrases(("person", "cup,mug", "sky"), ("on", "holding"), ("a {}",), ("x {} y",))


@pytest.fixture(params=[False, True], ids=["pretrained", "random"])
def cfg(request):
    cfg = build_cfg("", ["DATASETS.TRAIN", "('psg_trainval',)"])
    if request.param:
        cfg.MODEL.CLIP.PRETRAINED = ""
    return cfg


def record(cfg, **data: str) -> TrainingRecord:
    return TrainingRecord(data or {"psg_trainval": OTHER}, text_identity(cfg), WORDS)


def test_the_record_survives_plain_text(cfg):
    made = TrainingRecord.from_config(cfg)
    assert made.data == {"psg_trainval": OTHER} and len(made.phrases.objects) == 133 and "on" in made.phrases.predicates
    assert TrainingRecord.from_record(json.loads(json.dumps(made.record()))) == made


def test_nothing_is_said_where_a_model_does_what_it_was_trained_for(cfg):
    assert use_warnings(record(cfg), cfg, WORDS) == []
    some = replace(WORDS, objects=WORDS.objects[::-1], predicates=("on",))
    assert use_warnings(record(cfg), cfg, some) == []
    assert use_warnings(record(cfg, psg_shapes_train=GENERATED), cfg, WORDS, generated=True) == []


def test_names_that_were_not_in_training(cfg):
    (text,) = use_warnings(record(cfg), cfg, replace(WORDS, objects=("dragon", "person"), predicates=("on", "eats")))
    assert text.startswith("2 of 4 names (dragon, eats) were not in training")
    assert ("mean nothing to the model" in text) == (not cfg.MODEL.CLIP.PRETRAINED)


def test_other_synonyms_and_prompts_matter_where_embeddings_are_random(cfg):
    is_random = not cfg.MODEL.CLIP.PRETRAINED
    for other in (replace(WORDS, objects=("cup", "person")), replace(WORDS, predicate_templates=("{}",))):
        assert bool(use_warnings(record(cfg), cfg, other)) == is_random


def test_photographs_for_a_model_that_has_seen_drawings_alone(cfg):
    (text,) = use_warnings(record(cfg, psg_shapes_train=GENERATED), cfg, WORDS)
    assert "generated drawings alone (psg_shapes_train)" in text
    assert not use_warnings(record(cfg, psg_shapes_train=GENERATED, psg_train=OTHER), cfg, WORDS)


def test_weights_of_before_count(cfg):
    shapes = record(cfg, psg_shapes_train=GENERATED)
    assert use_warnings(shapes.after(None, "folder/model.pth"), cfg, WORDS) == []
    assert use_warnings(shapes.after(record(cfg), "model.pth"), cfg, WORDS) == []
    assert len(use_warnings(shapes.after(shapes, "model.pth"), cfg, WORDS)) == 1


def test_another_text_tower(cfg):
    other = cfg.clone()
    other.MODEL.CLIP.NAME = "convnext_base"
    texts = use_warnings(record(cfg), other, WORDS)
    assert "names are embedded by convnext_base" in texts[0] and "convnext_large_d_320" in texts[0]
