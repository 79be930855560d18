"""`CfgNode` and the decorator that lets a constructor be called with one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import IO, Any

from fvcore.common.config import CfgNode as _CfgNode

from ..utils.file_io import PathManager

__all__ = ["CfgNode", "configurable", "get_cfg"]


class CfgNode(_CfgNode):
    """fvcore's config node, with Detectron2's config version and defaults."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Merge a YAML file, and the files that its `_BASE_` names, into this config.

        Args:
            cfg_filename: path of the file.
            allow_unsafe: also read YAML that constructs Python objects, which can run code: read such a file first.

        Raises:
            ValueError: if the file is written for another config version.
        """
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        version = loaded.get("VERSION", self.VERSION)
        if version != self.VERSION:
            raise ValueError(f"{cfg_filename}: VERSION must be {self.VERSION}, got {version}")
        self.merge_from_other_cfg(loaded)

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """The config as YAML."""
        return super().dump(*args, **kwargs)


def get_cfg() -> CfgNode:
    """A copy of the default config."""
    from .defaults import _C

    return _C.clone()


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Let a constructor or a function with explicit arguments be called with a config instead.

    `@configurable` on `__init__` asks the class's `from_config(cls, cfg, ...)` for the arguments;
    `@configurable(from_config=f)` on a function asks `f(cfg, ...)`. Keyword arguments of the call that `from_config`
    does not take go to the constructor, and win over what `from_config` returned.

    Raises:
        TypeError: on anything else than `__init__`, or when `from_config` is missing or does not take `cfg` first.
    """
    if init_func is None:
        if from_config is None:
            return configurable
        return functools.partial(_configurable_function, from_config=from_config)
    if not inspect.isfunction(init_func) or init_func.__name__ != "__init__" or from_config is not None:
        raise TypeError("@configurable without arguments decorates an __init__ method")

    @functools.wraps(init_func)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        if _has_config(args, kwargs):
            translate = getattr(type(self), "from_config", None)
            if not inspect.ismethod(translate):
                raise TypeError(f"{type(self).__name__} needs a classmethod from_config to be built from a config")
            args, kwargs = (), _explicit_arguments(translate, args, kwargs)
        init_func(self, *args, **kwargs)

    return wrapped


def _configurable_function(function: Callable, *, from_config: Callable) -> Callable:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _has_config(args, kwargs):
            args, kwargs = (), _explicit_arguments(from_config, args, kwargs)
        return function(*args, **kwargs)

    wrapped.from_config = from_config
    return wrapped


def _has_config(args: tuple, kwargs: dict[str, Any]) -> bool:
    candidate = args[0] if args else kwargs.get("cfg")
    return isinstance(candidate, _CfgNode)


def _explicit_arguments(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take cfg as its first argument")
    takes_all = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    accepted = {key: value for key, value in kwargs.items() if takes_all or key in parameters}
    explicit = dict(from_config(*args, **accepted))
    explicit.update((key, value) for key, value in kwargs.items() if key not in accepted)
    return explicit
