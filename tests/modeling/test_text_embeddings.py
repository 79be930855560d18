"""Vocabulary files in the model: order changes nothing, prompts and synonyms do, data sets keep their numbering."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from usg_psg.config import build_cfg
from usg_psg.data import PSG_VOCABULARY
from usg_psg.modeling.text_embeddings import configured_vocabulary, embed_vocabulary

THINGS, STUFF, PREDICATES = ["dog", "cup", "person"], ["wall", "grass"], ["on", "holding", "beside", "over"]
SMALL = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.OBJECT_TEMPLATES", "['a {}.']", "DATASETS.TRAIN", "()"]


def write(path: Path, **changes: object) -> str:
    content = {"thing_classes": THINGS, "stuff_classes": STUFF, "predicate_classes": PREDICATES} | changes
    path.write_text(json.dumps(content))
    return str(path)


def config(vocabulary: str, dataset: str = ""):
    test = f"('{dataset}',)" if dataset else "()"
    opts = [*SMALL, "DATASETS.TEST", test, "MODEL.USG.VOCABULARY", vocabulary]
    return build_cfg("quickstart/usg_par_quickstart.yaml", opts)


@torch.no_grad()
def test_permuted_names_give_permuted_columns(tmp_path):
    one = build_model(config(write(tmp_path / "one.json"))).eval()
    other_file = write(
        tmp_path / "other.json",
        thing_classes=["person", "dog", "cup"],
        stuff_classes=["grass", "wall"],
        predicate_classes=["over", "on", "beside", "holding"],
    )
    other = build_model(config(other_file)).eval()
    other.load_state_dict(one.state_dict(), strict=True)
    objects, predicates = [1, 2, 0, 4, 3], [1, 3, 2, 0]  # where the first file's names stand in the second
    assert other.is_thing[objects].tolist() == one.is_thing.tolist()
    torch.testing.assert_close(other.object_text[objects], one.object_text, atol=1e-6, rtol=0)
    queries = torch.randn(2, 5, one.mask_decoder.query_feat.embedding_dim)
    torch.testing.assert_close(
        other.class_head(queries, other.object_text)[..., objects],
        one.class_head(queries, one.object_text),
        atol=1e-5,
        rtol=0,
    )
    head = one.relation_head.predicate_head
    torch.testing.assert_close(
        other.relation_head.predicate_head(queries, other.predicate_text)[..., predicates],
        head(queries, one.predicate_text),
        atol=1e-5,
        rtol=0,
    )
    image = [{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}]
    first, second = one(image)[0], other(image)[0]
    torch.testing.assert_close(second["relations"]["score"], first["relations"]["score"])
    classes = torch.tensor(objects)[first["instances"].pred_classes]
    assert torch.equal(second["instances"].pred_classes, classes)


def embed(cfg, dataset_name):
    return embed_vocabulary(cfg, configured_vocabulary(cfg, dataset_name))


def test_a_data_set_keeps_its_numbering(tmp_path):
    names = PSG_VOCABULARY
    path = write(
        tmp_path / "psg.json",
        thing_classes=[*reversed(names.thing_classes), "dragon"],
        stuff_classes=[*reversed(names.stuff_classes)],
        predicate_classes=[*reversed(names.predicate_classes), "greeting"],
    )
    plain = embed(config("", "psg_val"), "psg_val")
    from_file = embed(config(path), "psg_val")
    assert torch.equal(from_file.object_text, plain.object_text)
    assert torch.equal(from_file.predicate_text, plain.predicate_text)
    assert from_file.is_thing == plain.is_thing


def test_prompts_and_synonyms_of_the_file_are_used(tmp_path):
    plain = embed(config(write(tmp_path / "plain.json")), None)
    path = write(tmp_path / "other.json", predicate_templates=["x {} y"], synonyms={"cup": ["mug", "glass"]})
    other = embed(config(path), None)
    same = (plain.object_text - other.object_text).abs().amax(dim=1) < 1e-5
    assert same.tolist() == [True, False, True, True, True]
    assert not torch.equal(plain.predicate_text, other.predicate_text)
    words = embed(config(write(tmp_path / "w.json", thing_classes=["cup", "mug", "glass"])), None)
    mean = torch.nn.functional.normalize(words.object_text[:3].mean(dim=0), dim=0)
    torch.testing.assert_close(other.object_text[1], mean, atol=1e-5, rtol=0)


def test_missing_names_are_listed(tmp_path):
    with pytest.raises(ValueError, match="one.json lacks names of the data set 'psg_val': thing_classes bicycle, car"):
        build_model(config(write(tmp_path / "one.json"), "psg_val"))


def test_some_vocabulary_is_needed():
    with pytest.raises(ValueError, match="DATASETS.TRAIN or DATASETS.TEST, or MODEL.USG.VOCABULARY"):
        build_model(config(""))
