"""From a configuration's vocabulary to the text embeddings that the model classifies into."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode

from ..data.register_psg import get_psg_metadata
from ..data.vocabulary_file import Names, VocabularyFile, read_vocabulary
from ..structures import TextEmbeddings
from .text_embeddings import text_embeddings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phrases:
    """What the text tower is given.

    Attributes:
        objects, predicates: names; commas separate synonyms.
        object_templates, predicate_templates: prompts with a "{}".
    """

    objects: tuple[str, ...]
    predicates: tuple[str, ...]
    object_templates: tuple[str, ...]
    predicate_templates: tuple[str, ...]


def vocabulary_phrases(cfg: CfgNode, dataset_name: str | None) -> Phrases:
    """What is embedded for a data set; arguments and errors as in `vocabulary_embeddings`."""
    return _phrases(cfg, *_names(cfg, dataset_name))


def vocabulary_embeddings(cfg: CfgNode, dataset_name: str | None) -> TextEmbeddings:
    """Text embeddings of a data set's or a vocabulary file's names.

    Args:
        cfg: MODEL.USG.VOCABULARY, if set, gives prompts and synonyms.
        dataset_name: a registered data set, whose names are taken in its order; None takes those of the file.

    Raises:
        ValueError: if the file lacks names of the data set, or there is neither.
    """
    names, file = _names(cfg, dataset_name)
    if file is not None and dataset_name is not None and (unused := file.number_left_out(names)):
        logger.info("%d names of %s are not in %s and take no part", unused, cfg.MODEL.USG.VOCABULARY, dataset_name)
    is_thing = [True] * len(names.thing_classes) + [False] * len(names.stuff_classes)
    # Predicates are called as the data set has them, whatever a file has to say for them.
    return _embed(cfg, _phrases(cfg, names, file), is_thing, tuple(names.predicate_classes))


def name_phrases(
    cfg: CfgNode, thing_classes: Sequence[str], stuff_classes: Sequence[str], predicate_classes: Sequence[str]
) -> Phrases:
    """Any names in the configuration's prompts; arguments as in `embed_names`."""
    clip = cfg.MODEL.CLIP
    objects = (*thing_classes, *stuff_classes)
    return Phrases(objects, tuple(predicate_classes), tuple(clip.OBJECT_TEMPLATES), tuple(clip.PREDICATE_TEMPLATES))


def embed_names(
    cfg: CfgNode, thing_classes: Sequence[str], stuff_classes: Sequence[str], predicate_classes: Sequence[str]
) -> TextEmbeddings:
    """Text embeddings of any names, with the configuration's prompts.

    Args:
        cfg: MODEL.CLIP.
        thing_classes, stuff_classes: category ids count things, then stuff.
        predicate_classes: names of the relations.
    """
    is_thing = [True] * len(thing_classes) + [False] * len(stuff_classes)
    phrases = name_phrases(cfg, thing_classes, stuff_classes, predicate_classes)
    return _embed(cfg, phrases, is_thing, tuple(predicate_classes))


def _names(cfg: CfgNode, dataset_name: str | None) -> tuple[Names, VocabularyFile | None]:
    """Names of a data set, or else of the vocabulary file, and that file, which has those of the data set."""
    path = cfg.MODEL.USG.VOCABULARY
    file = read_vocabulary(path) if path else None
    if dataset_name is not None:
        names = get_psg_metadata(dataset_name)
        if file is not None:
            file.check_covers(dataset_name, names)
        return names, file
    if file is not None:
        return file.vocabulary, file
    raise ValueError("a vocabulary is needed: DATASETS.TRAIN or DATASETS.TEST, or MODEL.USG.VOCABULARY")


def _phrases(cfg: CfgNode, names: Names, file: VocabularyFile | None) -> Phrases:
    own = name_phrases(cfg, names.thing_classes, names.stuff_classes, names.predicate_classes)
    if file is None:
        return own
    return Phrases(
        tuple(file.with_synonyms(own.objects)),
        tuple(file.with_synonyms(own.predicates)),
        tuple(file.object_templates) or own.object_templates,
        tuple(file.predicate_templates) or own.predicate_templates,
    )


def _embed(cfg: CfgNode, phrases: Phrases, is_thing: Sequence[bool], predicate_names: Sequence[str]) -> TextEmbeddings:
    clip = cfg.MODEL.CLIP
    where = {"model": clip.NAME, "pretrained": clip.PRETRAINED, "cache_dir": clip.TEXT_CACHE}
    where["device"] = cfg.MODEL.DEVICE if torch.cuda.is_available() else "cpu"
    return TextEmbeddings(
        text_embeddings(phrases.objects, phrases.object_templates, **where),
        text_embeddings(phrases.predicates, phrases.predicate_templates, **where),
        is_thing,
        predicate_names,
        phrases.objects,
    )
