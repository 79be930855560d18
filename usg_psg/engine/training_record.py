"""The record in a checkpoint of a model's training data, and warnings where the model is used for other data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from ..modeling.openclip import is_random
from ..modeling.text_embeddings import Phrases, configured_vocabulary, text_identity

logger = logging.getLogger(__name__)

GENERATED, OTHER, UNKNOWN = "generated", "other", "unknown"  # kinds of training data
MAX_NAMES = 3  # that a warning lists


@dataclass(frozen=True)
class TrainingRecord:
    """Plain values for a checkpoint.

    Attributes:
        data: GENERATED, OTHER or UNKNOWN by name of a data set, those of earlier runs included.
        text: `weights_identity` of the text tower that embedded the names.
        phrases: names and prompts.
    """

    data: dict[str, str]
    text: dict[str, str]
    phrases: Phrases

    @classmethod
    def from_config(cls, cfg: CfgNode) -> TrainingRecord:
        """Of a run on DATASETS.TRAIN."""
        data = {name: GENERATED if is_generated(name) else OTHER for name in cfg.DATASETS.TRAIN}
        return cls(data, text_identity(cfg), Phrases.of(cfg, configured_vocabulary(cfg, cfg.DATASETS.TRAIN[0])))

    def after(self, earlier: TrainingRecord | None, filename: str) -> TrainingRecord:
        """This record, of a run that started from the weights of a file with that record."""
        before = {Path(filename).name: UNKNOWN} if earlier is None else earlier.data
        return replace(self, data={**before, **self.data})

    def record(self) -> dict[str, Any]:
        """Plain lists and texts."""
        phrases = {key: list(value) for key, value in asdict(self.phrases).items()}
        return {"data": self.data, "text": self.text, "phrases": phrases}

    @classmethod
    def from_record(cls, record: Any) -> TrainingRecord:
        """What `record` returned.

        Raises:
            ValueError: if it is something else.
        """
        keys = {field.name for field in fields(Phrases)}
        if (
            not isinstance(record, dict)
            or set(record) != {"data", "text", "phrases"}
            or not all(isinstance(part, dict) for part in record.values())
            or not all(isinstance(v, str) for part in ("data", "text") for pair in record[part].items() for v in pair)
            or set(record["phrases"]) != keys
            or not all(isinstance(value, list) for value in record["phrases"].values())
            or not all(isinstance(text, str) for value in record["phrases"].values() for text in value)
        ):
            raise ValueError("expected data and text, texts by name, and phrases, lists of texts by name")
        phrases = {key: tuple(value) for key, value in record["phrases"].items()}
        return cls(record["data"], record["text"], Phrases(**phrases))


def is_generated(dataset_name: str) -> bool:
    """Whether a data set's images are drawn by `psg_shapes`, by its name."""
    return dataset_name.startswith("psg_shapes")


def use_warnings(
    record: TrainingRecord,
    cfg: CfgNode,
    phrases: Phrases,
    generated: bool = False,
    tower: Mapping[str, str] | None = None,
) -> list[str]:
    """Warn, a sentence each, of images, names and text towers that a model was not trained on.

    Args:
        record: of its checkpoint.
        cfg: names the text tower.
        phrases: names and prompts to look for.
        generated: whether the images are known to be generated.
        tower: identity of the text tower that embedded the names, None for that of `cfg`.
    """
    tower = tower or text_identity(cfg)
    found = []
    if record.data and set(record.data.values()) == {GENERATED} and not generated:
        names = ", ".join(record.data)
        found.append(
            f"the model was trained on generated drawings alone ({names}): do not expect it to understand photographs"
        )
    if record.text != tower:
        found.append(
            f"names are embedded by {_shown(tower)}, in training by {_shown(record.text)}: unless these are the same "
            "weights, set MODEL.CLIP.NAME, MODEL.CLIP.PRETRAINED and MODEL.USG.SENTENCE_ENCODER as in training"
        )
    random = is_random(text_identity(cfg))
    known = record.phrases
    objects = _new(phrases.objects, known.objects, random, phrases.object_templates == known.object_templates)
    same_prompts = phrases.predicate_templates == known.predicate_templates
    new = objects + _new(phrases.predicates, known.predicates, random, same_prompts)
    if new:
        total = len(phrases.objects) + len(phrases.predicates)
        listed = ", ".join(new[:MAX_NAMES]) + (", ..." if len(new) > MAX_NAMES else "")
        begin = f"{len(new)} of {total} names ({listed}) were not in training"
        if random:
            found.append(
                f"{begin}, or in other prompts: they mean nothing to the model, whose text tower has random weights "
                "(MODEL.CLIP.PRETRAINED is empty)"
            )
        else:
            found.append(f"{begin}: the model knows them by their words alone, so it finds them less well")
    return found


def warn_about_test_data(record: TrainingRecord, cfg: CfgNode) -> None:
    """Log `use_warnings` for an evaluation on DATASETS.TEST."""
    if cfg.DATASETS.TEST:
        generated = all(is_generated(name) for name in cfg.DATASETS.TEST)
        phrases = Phrases.of(cfg, configured_vocabulary(cfg, cfg.DATASETS.TEST[0]))
        for text in use_warnings(record, cfg, phrases, generated):
            logger.warning(text)


def _new(names: Sequence[str], known: Sequence[str], is_random: bool, same_prompts: bool) -> list[str]:
    """Names without any word that was trained on; random embeddings are others with other synonyms or prompts, too."""
    if is_random:
        return [_first(name) for name in names if not same_prompts or name not in known]
    words = {word for name in known for word in name.split(",")}
    return [_first(name) for name in names if words.isdisjoint(name.split(","))]


def _first(name: str) -> str:
    return name.partition(",")[0]


def _shown(identity: Mapping[str, str]) -> str:
    return f"{identity.get('model')} ({identity.get('weights')})"
