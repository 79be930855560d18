"""Settings of a run: keys and defaults, files and overrides, checks, the reference page."""

from .build import build_cfg, get_config_file
from .defaults import add_usg_config

__all__ = ["add_usg_config", "build_cfg", "get_config_file"]
