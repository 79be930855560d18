"""The names that category and predicate numbers stand for, from a data set or from a file of one's own.

Categories are 0-based over things, then stuff; predicates are 0-based, as in psg.json.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from .utils.files import write_whole
from .utils.unique_keys import UniqueKeyLoader, json_object
from .utils.weights_file import SUFFIXES, read_records

NAME_KEYS = ("thing_classes", "stuff_classes", "predicate_classes")
TEMPLATE_KEYS = ("object_templates", "predicate_templates")
KEYS = (*NAME_KEYS, *TEMPLATE_KEYS, "synonyms")
TENSOR_KEYS = ("objects", "predicates")  # of `NameEmbeddings`


VOCABULARY_KEY = "vocabulary"  # of the record in a checkpoint, or in the metadata of a safetensors file


@dataclass(frozen=True)
class NameEmbeddings:
    """Text embeddings of a vocabulary's names, made earlier: no text tower is needed for them.

    Attributes:
        objects, predicates: (C, T) and (P, T) float32, unit length.
        tower: `weights_identity` of the text tower.
    """

    objects: Tensor
    predicates: Tensor
    tower: Mapping[str, str]


@dataclass(frozen=True)
class Vocabulary:
    """Names of objects and predicates, and how the text tower is to be asked for them.

    Attributes:
        thing_classes: names of categories 0..len-1; commas separate synonyms.
        stuff_classes: names of the categories after the things; all pixels of one are one object.
        predicate_classes: names of predicates 0..P-1.
        object_templates, predicate_templates: prompts with a "{}"; empty for those of the configuration.
        synonyms: further words for a name; their embeddings are averaged with the name's own.
        source: file that it was read from, for messages.
        embeddings: of the names, where they are known; None for those that the text tower will make.
    """

    thing_classes: tuple[str, ...]
    stuff_classes: tuple[str, ...]
    predicate_classes: tuple[str, ...]
    object_templates: tuple[str, ...] = ()
    predicate_templates: tuple[str, ...] = ()
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    source: str = field(default="", compare=False)
    embeddings: NameEmbeddings | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_metadata(cls, metadata: Any) -> Vocabulary:
        """The names of a data set; metadata has the attributes of `NAME_KEYS`, as Detectron2's of a PSG data set."""
        return cls.from_names({key: getattr(metadata, key) for key in NAME_KEYS})

    @classmethod
    def from_names(cls, names: Mapping[str, Iterable[str]]) -> Vocabulary:
        """Lists of names by `NAME_KEYS`."""
        things, stuff, predicates = (tuple(names[key]) for key in NAME_KEYS)
        return cls(things, stuff, predicates)

    @classmethod
    def read(cls, path: str | Path) -> Vocabulary:
        """Read YAML or (suffix .json) JSON; docs/open_vocabulary.md describes the keys.

        A file that `save` wrote (.safetensors), or a checkpoint of this project, has embeddings, too.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: names the file and the field.
        """
        path = Path(path)
        content = _read(path)
        try:
            return cls.from_record(content, str(path)) if path.suffix in SUFFIXES else _build(str(path), content)
        except ValueError as error:
            raise ValueError(f"{path}, {error}") from None

    def record(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        content: dict[str, Any] = {key: list(getattr(self, key)) for key in (*NAME_KEYS, *TEMPLATE_KEYS)}
        content["synonyms"] = {name: list(words) for name, words in self.synonyms.items()}
        if self.embeddings is not None:
            content["tower"] = dict(self.embeddings.tower)
            for key in TENSOR_KEYS:
                content[key] = getattr(self.embeddings, key).detach().float().cpu().contiguous()
        return content

    @classmethod
    def from_record(cls, record: Any, source: str = "") -> Vocabulary:
        """What `record` returned.

        Raises:
            ValueError: if it is something else; names the field.
        """
        if not isinstance(record, dict) or not {*NAME_KEYS, *TEMPLATE_KEYS, "synonyms"} <= set(record):
            raise ValueError("it has no vocabulary of this project")
        texts: dict[str, Any] = {key: _texts(key, record[key]) for key in (*NAME_KEYS, *TEMPLATE_KEYS)}
        objects = [*texts["thing_classes"], *texts["stuff_classes"]]
        synonyms = _synonyms(record["synonyms"], objects, texts["predicate_classes"])
        made = cls(**texts, synonyms=synonyms, source=source)
        if "tower" not in record:
            return made
        for key, names in zip(TENSOR_KEYS, (objects, texts["predicate_classes"]), strict=True):
            value = record.get(key)
            if not isinstance(value, Tensor) or value.ndim != 2 or len(value) != len(names):
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"{key}: expected an embedding of each of {len(names)} names, got {got}")
            if not torch.isfinite(value).all():
                raise ValueError(f"{key}: not all values are finite")
        return replace(made, embeddings=NameEmbeddings(**{key: record[key] for key in (*TENSOR_KEYS, "tower")}))

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file with names and embeddings for `read`, whole or not at all."""
        record = self.record()
        tensors = {key: record.pop(key) for key in TENSOR_KEYS if key in record}
        content = save(tensors, metadata={VOCABULARY_KEY: json.dumps(record)})
        write_whole(path, lambda file: file.write(content))

    def renamed(self, other: Vocabulary) -> Vocabulary:
        """With the names of a vocabulary that this one covers, in its order; prompts, synonyms and embeddings stay."""
        embeddings = self.embeddings
        if embeddings is not None:
            objects = [self.object_classes.index(name) for name in other.object_classes]
            predicates = [self.predicate_classes.index(name) for name in other.predicate_classes]
            embeddings = NameEmbeddings(
                embeddings.objects[objects], embeddings.predicates[predicates], embeddings.tower
            )
        names: dict[str, Any] = other.names
        return replace(self, **names, embeddings=embeddings)

    @property
    def object_classes(self) -> tuple[str, ...]:
        """Things, then stuff; the index is the category id."""
        return self.thing_classes + self.stuff_classes

    @property
    def is_thing(self) -> list[bool]:
        """Of each category."""
        return [True] * len(self.thing_classes) + [False] * len(self.stuff_classes)

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The names alone, by `NAME_KEYS`: what makes the numbers of two vocabularies mean the same."""
        return {key: getattr(self, key) for key in NAME_KEYS}

    def with_synonyms(self, names: Iterable[str]) -> tuple[str, ...]:
        """Names as `text_embeddings` takes them: synonyms follow after commas."""
        return tuple(",".join((name, *self.synonyms.get(name, ()))) for name in names)

    def check_covers(self, dataset_name: str, other: Vocabulary) -> None:
        """Categories of a data set are found by name: each must be here, as the thing, stuff or predicate it is there.

        Raises:
            ValueError: lists the missing names.
        """
        missing = {key: [name for name in names if name not in self.names[key]] for key, names in other.names.items()}
        problems = [f"{key} {', '.join(names)}" for key, names in missing.items() if names]
        if problems:
            raise ValueError(f"{self.source} lacks names of the data set {dataset_name!r}: {'; '.join(problems)}")

    def number_beyond(self, other: Vocabulary) -> int:
        """How many names another vocabulary lacks."""
        return sum(len(set(names) - set(other.names[key])) for key, names in self.names.items())


class _Loader(UniqueKeyLoader):
    """Safe YAML in which on, off, yes and no are words ("on" is a predicate)."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read(path: Path) -> object:
    if path.suffix in SUFFIXES:
        return _read_record(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"there is no vocabulary file {path}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file ({error})") from error
    try:
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=json_object)
        return yaml.load(text, Loader=_Loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        # YAML's messages run over several lines.
        raise ValueError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def _read_record(path: Path) -> object:
    if not path.is_file():
        raise FileNotFoundError(f"there is no vocabulary file {path}")
    try:
        if path.suffix != ".safetensors":
            content = read_records(path)
            return content.get(VOCABULARY_KEY) if isinstance(content, dict) else None
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(VOCABULARY_KEY, "null"))
            tensors = {key: file.get_tensor(key) for key in TENSOR_KEYS} if record and "tower" in record else {}
        return record and {**record, **tensors}
    except Exception as error:  # of damaged files, those of several libraries
        raise ValueError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def _build(path: str, content: object) -> Vocabulary:
    if not isinstance(content, dict):
        raise ValueError(f"top level: expected keys {', '.join(KEYS)}, got {type(content).__name__}")
    unknown = [str(key) for key in content if key not in KEYS]
    if unknown:
        raise ValueError(f"{unknown[0]}: unknown key; there are {', '.join(KEYS)}")
    names: dict[str, Any] = {key: _words(key, content.get(key, [])) for key in NAME_KEYS}
    if not names["thing_classes"] and not names["stuff_classes"]:
        raise ValueError("thing_classes: expected a name here or in stuff_classes, both are empty")
    if not names["predicate_classes"]:
        raise ValueError("predicate_classes: expected at least one name, got none")
    objects = [*names["thing_classes"], *names["stuff_classes"]]
    _refuse_duplicates("thing_classes, stuff_classes", objects)
    _refuse_duplicates("predicate_classes", names["predicate_classes"])
    templates: dict[str, Any] = {key: _templates(key, content[key]) for key in TEMPLATE_KEYS if key in content}
    synonyms = _synonyms(content.get("synonyms", {}), objects, names["predicate_classes"])
    return Vocabulary(**names, **templates, synonyms=synonyms, source=path)


def check_template(template: str) -> None:
    """Raise ValueError for a prompt that has not exactly one place, "{}", for a name."""
    if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
        raise ValueError(f"expected a prompt with one {{}}, in the name's place, and no other braces, got {template!r}")


def _texts(place: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{place}: expected a list, got {type(value).__name__}")
    for position, text in enumerate(value):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{place}[{position}]: expected text, got {text!r}")
    return tuple(text.strip() for text in value)


def _words(place: str, value: object) -> tuple[str, ...]:
    words = _texts(place, value)
    for position, word in enumerate(words):
        if "," in word:
            raise ValueError(f"{place}[{position}]: {word!r} has a comma; write other words for a name under synonyms")
    return words


def _refuse_duplicates(place: str, names: Sequence[str]) -> None:
    counts = Counter(name.casefold() for name in names)
    repeated = [name for name in names if counts[name.casefold()] > 1]
    if repeated:
        raise ValueError(f"{place}: {repeated[0]!r} occurs twice")


def _templates(place: str, value: object) -> tuple[str, ...]:
    templates = _texts(place, value)
    if not templates:
        raise ValueError(f"{place}: expected at least one prompt, got none")
    for position, template in enumerate(templates):
        try:
            check_template(template)
        except ValueError as error:
            raise ValueError(f"{place}[{position}]: {error}") from None
    return templates


def _synonyms(value: object, objects: Sequence[str], predicates: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ValueError(f"synonyms: expected a list of words for each name, got {type(value).__name__}")
    found = {}
    for name, words in value.items():
        place = f"synonyms.{name}"
        if name not in objects and name not in predicates:
            raise ValueError(f"{place}: there is no such name among the classes")
        found[name] = _words(place, words)
        for names in (objects, predicates):
            if name in names:
                _refuse_duplicates(place, [*names, *found[name]])
    return found
