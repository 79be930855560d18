"""Vocabularies from files: names to look for, without a data set and without training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import yaml

from ..utils.unique_keys import UniqueKeyLoader, json_object
from .psg_categories import NAME_KEYS, PSGVocabulary

TEMPLATE_KEYS = ("object_templates", "predicate_templates")
KEYS = (*NAME_KEYS, *TEMPLATE_KEYS, "synonyms")


class Names(Protocol):
    """What a `PSGVocabulary` and the metadata of a data set have in common."""

    @property
    def thing_classes(self) -> Sequence[str]: ...

    @property
    def stuff_classes(self) -> Sequence[str]: ...

    @property
    def predicate_classes(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class VocabularyFile:
    """Content of a vocabulary file.

    Attributes:
        path: the file.
        vocabulary: things, stuff and predicates.
        object_templates, predicate_templates: prompts with a "{}"; empty for those of the configuration.
        synonyms: further words for a name; their embeddings are averaged with the name's own.
    """

    path: str
    vocabulary: PSGVocabulary
    object_templates: tuple[str, ...] = ()
    predicate_templates: tuple[str, ...] = ()
    synonyms: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def with_synonyms(self, names: Iterable[str]) -> list[str]:
        """Names as `text_embeddings` takes them: synonyms follow after commas."""
        return [",".join((name, *self.synonyms.get(name, ()))) for name in names]

    def check_covers(self, dataset_name: str, names: Names) -> None:
        """Categories of a data set are found by name: each must be in the file, as what it is in the data set.

        Raises:
            ValueError: lists the missing names.
        """
        own, problems = self.vocabulary, []
        for key in NAME_KEYS:
            missing = [name for name in getattr(names, key) if name not in getattr(own, key)]
            if missing:
                problems.append(f"{key} {', '.join(missing)}")
        if problems:
            raise ValueError(f"{self.path} lacks names of the data set {dataset_name!r}: {'; '.join(problems)}")

    def number_left_out(self, names: Names) -> int:
        """How many names of the file a data set has no annotation for."""
        return sum(len(set(getattr(self.vocabulary, key)) - set(getattr(names, key))) for key in NAME_KEYS)


class _Loader(UniqueKeyLoader):
    """Safe YAML in which on, off, yes and no are words ("on" is a predicate)."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_vocabulary(path: str | Path) -> VocabularyFile:
    """Read a vocabulary from YAML or (suffix .json) JSON; docs/open_vocabulary.md describes the keys.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: names the file and the field.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"there is no vocabulary file {path}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file ({error})") from error
    try:
        if path.suffix == ".json":
            content = json.loads(text, object_pairs_hook=json_object)
        else:
            content = yaml.load(text, Loader=_Loader)  # noqa: S506  a safe loader
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        # YAML's messages run over several lines.
        raise ValueError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    try:
        return _build(str(path), content)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from None


def _build(path: str, content: object) -> VocabularyFile:
    if not isinstance(content, dict):
        raise ValueError(f"top level: expected keys {', '.join(KEYS)}, got {type(content).__name__}")
    unknown = [str(key) for key in content if key not in KEYS]
    if unknown:
        raise ValueError(f"{unknown[0]}: unknown key; there are {', '.join(KEYS)}")
    names = {key: _words(key, content.get(key, [])) for key in NAME_KEYS}
    if not names["thing_classes"] and not names["stuff_classes"]:
        raise ValueError("thing_classes: expected a name here or in stuff_classes, both are empty")
    if not names["predicate_classes"]:
        raise ValueError("predicate_classes: expected at least one name, got none")
    objects = [*names["thing_classes"], *names["stuff_classes"]]
    _refuse_duplicates("thing_classes, stuff_classes", objects)
    _refuse_duplicates("predicate_classes", names["predicate_classes"])
    templates = {key: _templates(key, content[key]) for key in TEMPLATE_KEYS if key in content}
    synonyms = _synonyms(content.get("synonyms", {}), objects, names["predicate_classes"])
    return VocabularyFile(path, PSGVocabulary(**names), **templates, synonyms=synonyms)


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
