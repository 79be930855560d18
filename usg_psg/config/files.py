"""Reading configuration files and overrides, with errors that name key, expected type, value and where it stands.

Files are plain YAML: nothing in them can run code. Every fault is reported, not only the first.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from ..utils.suggestions import did_you_mean
from ..utils.unique_keys import UniqueKeyLoader
from ..utils.weights_file import SUFFIXES, read_records

CONFIG_KEY = "config"  # of a checkpoint, which holds the config of its run as text
BASE_KEY = "_BASE_"
MAX_BASES = 50  # of one another
TYPE_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list, such as (1, 2) or ('a',)",
    list: "a list, such as [1, 2] or ['a']",
}


class UntrustedImportsError(ValueError):
    """A file that is not trusted names modules to import."""


def merge_file(cfg: CfgNode, path: Path, trusted: Sequence[Path] | None = None) -> None:
    """Set the values of a YAML file, or of a checkpoint's config, and before them those of files that `_BASE_` names.

    `_BASE_` is relative to the file's folder; where there is none, the name of a shipped recipe.

    Args:
        cfg: changed.
        path: of the file.
        trusted: folders of files that may have modules imported; None for any file.

    Raises:
        FileNotFoundError: if one of the files is missing.
        ValueError: if one cannot be read, has an unknown key or a value of another type; `UntrustedImportsError` if one
            has IMPORTS without being trusted.
    """
    known, problems, kind = dict(leaves(cfg)), [], ValueError
    for file, content in _with_bases(path):
        is_own = file.suffix not in SUFFIXES and any(map(file.resolve().is_relative_to, trusted or ()))
        if content.get("IMPORTS") and trusted is not None and not is_own:
            what = "is a checkpoint" if file.suffix in SUFFIXES else "is outside the working folder"
            how = "--trust-imports, in Python trust_imports=True"
            problems.append(f"{file}: its IMPORTS would run code, and the file {what}; if you trust it: {how}")
            kind = UntrustedImportsError
        problems += _merge(cfg, known, _flatten(content, known), str(file))
    if problems:
        raise kind("; ".join(problems))


def recipe_folders() -> list[Path]:
    """Where shipped recipes may lie: in the installed package, or beside it in the repository."""
    package = Path(__file__).resolve().parents[1]
    return [package / "configs", package.parent / "configs"]


def merge_overrides(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Set the values of `KEY VALUE` and `KEY=VALUE` overrides.

    Raises:
        ValueError: for a key without a value, an unknown key, or a value of another type.
    """
    if problems := _merge(cfg, dict(leaves(cfg)), override_pairs(opts), ""):
        raise ValueError("; ".join(problems))


def override_pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """Keys and values of overrides, `KEY VALUE` or `KEY=VALUE`; no key has an equals sign, a value may.

    Raises:
        ValueError: for a key without a value.
    """
    pairs, rest = [], iter(words)
    for word in rest:
        key, joined, value = word.partition("=")
        try:
            pairs.append((key, value if joined else next(rest)))
        except StopIteration:
            raise ValueError(
                f"{word}: expected a value after it, as overrides are KEY VALUE or KEY=VALUE; got {' '.join(words)}"
            ) from None
    return pairs


def leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full keys and values of a config."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def set_leaf(cfg: CfgNode, key: str, value: Any) -> None:
    """Set the value of a full key, in sections that are added where they are missing."""
    *sections, last = key.split(".")
    for section in sections:
        cfg = cfg.setdefault(section, CfgNode())
    cfg[last] = value


def _with_bases(path: Path) -> list[tuple[Path, dict]]:
    """A file and its bases, bases first, each once: where several files name the same one, its last place counts."""
    found: dict[Path, dict] = {}  # from the last to the first
    _collect(path, (), found)
    return list(found.items())[::-1]


def _collect(path: Path, below: tuple[Path, ...], found: dict[Path, dict]) -> None:
    if path in below:
        raise ValueError(f"{below[0]}: its {BASE_KEY} leads back to {path}")
    if path in found:  # whatever it sets is set after this place
        return
    if len(below) > MAX_BASES:
        raise ValueError(f"{below[0]}: its {BASE_KEY} leads through more than {MAX_BASES} files, the last one {path}")
    content = _read_yaml(path)
    found[path] = content
    bases = content.pop(BASE_KEY, [])
    for name in reversed(bases if isinstance(bases, list) else [bases]):
        if not isinstance(name, str):
            raise ValueError(f"{path}, {BASE_KEY}: expected the path of a file, got {name!r}")
        base = (path.parent / Path(name).expanduser()).resolve()
        if not base.is_file():
            base = next(filter(Path.is_file, (root / name for root in recipe_folders())), base)
        if not base.is_file():
            raise FileNotFoundError(f"{path}, {BASE_KEY}: there is no file {base}")
        _collect(base, (*below, path), found)


def _read_yaml(path: Path) -> dict:
    try:
        text = _text_of_checkpoint(path) if path.suffix in SUFFIXES else path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected configuration keys, got {type(content).__name__}")
    return content


def _text_of_checkpoint(path: Path) -> str:
    try:
        content = read_records(path)
    except Exception as error:  # of damaged files, those of several libraries
        raise ValueError(str(error).partition(". ")[0]) from error
    text = content.get(CONFIG_KEY) if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise ValueError("it holds no config of its training: it is older, or not of this project")
    return text


def _flatten(content: dict, known: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full keys and values of nested dicts; an empty section, of which all lines are comments, has none."""
    for key, value in content.items():
        full = f"{prefix}{key}"
        is_section = full not in known and any(other.startswith(full + ".") for other in known)
        if isinstance(value, dict) and full not in known:
            yield from _flatten(value, known, full + ".")
        elif not (is_section and value is None):
            yield full, value


def _merge(cfg: CfgNode, known: dict[str, Any], pairs: Iterator[tuple[str, Any]] | list, source: str) -> list[str]:
    """Set values; return an error for each that cannot be set."""
    where, problems = f"{source}: " if source else "", []
    for key, raw in pairs:
        if key not in known:
            problems.append(where + _unknown(key, known))
            continue
        try:
            value = _as_type_of(known[key], raw)
        except ValueError as error:
            problems.append(f"{where}{key}: {error}")
            continue
        if key == "VERSION" and value != known[key]:
            problems.append(f"{where}VERSION: expected {known[key]}, got {value}")
            continue
        set_leaf(cfg, key, value)
    return problems


def _unknown(key: str, known: dict[str, Any]) -> str:
    if any(other.startswith(f"{key}.") for other in known):
        return f"{key} is a section of keys and has no value of its own"
    return f"unknown configuration key {key!r}{did_you_mean(key, known)}"


def _as_type_of(default: Any, raw: Any) -> Any:
    """A value as a key with this default takes it: texts become Python literals where text is not expected.

    Raises:
        ValueError: if it has another type.
    """
    value = raw
    if isinstance(raw, str):
        try:
            value = literal_eval(raw)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = raw
    if default is None:
        return value
    expected = type(default)
    if expected is str and isinstance(raw, str):
        return value if isinstance(value, str) else raw
    if expected is float and type(value) is int:
        return float(value)
    if expected in (tuple, list) and type(value) in (tuple, list):
        _check_elements(default, value)
        return expected(value)
    if type(value) is not expected:
        hint = f", did you mean ({value!r},)?" if expected in (tuple, list) and isinstance(value, str) else ""
        raise ValueError(f"expected {TYPE_NAMES.get(expected, expected.__name__)}, got {value!r}{hint}")
    return value


def _check_elements(default: Sequence, value: Sequence) -> None:
    """Elements have the type of the default's, where all of those are of one plain type."""
    types = {type(element) for element in default}
    (expected,) = types if len(types) == 1 else (None,)
    if expected not in (bool, int, float, str):
        return
    for position, element in enumerate(value):
        if type(element) is not expected and not (expected is float and type(element) is int):
            raise ValueError(f"expected {TYPE_NAMES[expected]} at position {position}, got {element!r}")
