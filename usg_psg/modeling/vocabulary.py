"""From a configuration's vocabulary to the text embeddings that the model classifies into."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode

from ..data.register_psg import get_psg_metadata
from ..data.vocabulary_file import read_vocabulary
from .text_embeddings import text_embeddings

logger = logging.getLogger(__name__)


def vocabulary_embeddings(cfg: CfgNode, dataset_name: str | None) -> dict:
    """Arguments of `USGPar.set_vocabulary`.

    Args:
        cfg: MODEL.USG.VOCABULARY, if set, gives prompts and synonyms.
        dataset_name: a registered data set, whose names are taken in its order; None takes those of the file.

    Raises:
        ValueError: if the file lacks names of the data set, or there is neither.
    """
    path, clip = cfg.MODEL.USG.VOCABULARY, cfg.MODEL.CLIP
    file = read_vocabulary(path) if path else None
    if dataset_name is not None:
        names = get_psg_metadata(dataset_name)
    elif file is not None:
        names = file.vocabulary
    else:
        raise ValueError("a vocabulary is needed: DATASETS.TRAIN or DATASETS.TEST, or MODEL.USG.VOCABULARY")
    objects, predicates = [*names.thing_classes, *names.stuff_classes], list(names.predicate_classes)
    predicate_names = tuple(predicates)  # as the data set has them, whatever a file has to say for them
    is_thing = [True] * len(names.thing_classes) + [False] * len(names.stuff_classes)
    object_templates, predicate_templates = clip.OBJECT_TEMPLATES, clip.PREDICATE_TEMPLATES
    if file is not None:
        if dataset_name is not None:
            file.check_covers(dataset_name, names)
            if unused := file.number_left_out(names):
                logger.info("%d names of %s are not in %s and take no part", unused, path, dataset_name)
        objects, predicates = file.with_synonyms(objects), file.with_synonyms(predicates)
        object_templates = file.object_templates or object_templates
        predicate_templates = file.predicate_templates or predicate_templates
    embedded = _embed(cfg, (objects, object_templates), (predicates, predicate_templates), is_thing)
    return {**embedded, "predicate_names": predicate_names}


def embed_names(
    cfg: CfgNode, thing_classes: Sequence[str], stuff_classes: Sequence[str], predicate_classes: Sequence[str]
) -> dict:
    """Arguments of `USGPar.set_vocabulary` for any names, with the configuration's prompts.

    Args:
        cfg: MODEL.CLIP.
        thing_classes, stuff_classes: category ids count things, then stuff.
        predicate_classes: names of the relations.
    """
    clip, is_thing = cfg.MODEL.CLIP, [True] * len(thing_classes) + [False] * len(stuff_classes)
    objects = [*thing_classes, *stuff_classes]
    embedded = _embed(cfg, (objects, clip.OBJECT_TEMPLATES), (predicate_classes, clip.PREDICATE_TEMPLATES), is_thing)
    return {**embedded, "predicate_names": tuple(predicate_classes)}


def _embed(cfg: CfgNode, objects: tuple, predicates: tuple, is_thing: list[bool]) -> dict:
    """Embeddings of (names, templates) of objects and predicates."""
    clip = cfg.MODEL.CLIP
    where = {"model": clip.NAME, "pretrained": clip.PRETRAINED, "cache_dir": clip.TEXT_CACHE}
    where["device"] = cfg.MODEL.DEVICE if torch.cuda.is_available() else "cpu"
    return {
        "object_text": text_embeddings(*objects, **where),
        "predicate_text": text_embeddings(*predicates, **where),
        "is_thing": is_thing,
        "object_names": tuple(objects[0]),
    }
