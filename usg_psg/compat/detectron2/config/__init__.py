"""Configuration: yacs nodes with `_BASE_` inheritance, the default keys, and `@configurable`."""

from .config import CfgNode, configurable, get_cfg

__all__ = ["CfgNode", "configurable", "get_cfg"]
