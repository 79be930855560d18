"""YAML and JSON objects in which no key may stand twice: one of the values would be lost without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

import yaml

MAX_REPEATED = 10_000  # values that a file's aliases may repeat


class UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML; ValueError for a repeated key, and for aliases that lead back to themselves or repeat too much."""

    def construct_document(self, node: yaml.Node) -> Any:
        """Refuse aliases that repeat too much."""
        sizes: dict[int, int] = {}
        size = _unfolded_size(node, sizes)
        if size - len(sizes) > MAX_REPEATED:
            raise ValueError(f"its aliases repeat more than {MAX_REPEATED:,} values")
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse repeated keys."""
        keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        refuse_repeated(self.construct_object(key, deep=True) for key in keys)
        return super().construct_mapping(node, deep)


def _unfolded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Nodes of a document in which each alias is written out; sizes takes that of each node by its id."""
    if id(node) not in sizes:
        sizes[id(node)] = 0  # until it is known
        pairs = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for pair in pairs for part in (pair if isinstance(pair, tuple) else (pair,))]
        sizes[id(node)] = 1 + sum(_unfolded_size(part, sizes) for part in parts)
    elif not sizes[id(node)]:
        raise ValueError("an alias stands for something that contains it")
    return sizes[id(node)]


class RepeatedKeys(dict):
    """A JSON object in which keys stand more than once; the last value of each counts.

    Attributes:
        repeated: those keys.
    """

    repeated: tuple[str, ...] = ()


def marked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """`object_pairs_hook` of json.loads that marks an object with repeated keys as `RepeatedKeys`."""
    found = dict(pairs)
    if len(found) != len(pairs):
        found = RepeatedKeys(found)
        found.repeated = tuple(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return found


def json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """`object_pairs_hook` of json.loads; ValueError for a repeated key."""
    refuse_repeated(key for key, _ in pairs)
    return dict(pairs)


def refuse_repeated(keys: Iterable[object]) -> None:
    """Raise ValueError for keys that occur more than once."""
    repeated = [repr(key) for key, count in Counter(map(str, keys)).items() if count > 1]
    if repeated:
        raise ValueError(f"the key {', '.join(repeated)} occurs twice")
