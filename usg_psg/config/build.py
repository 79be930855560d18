"""The config of a run: defaults, a recipe, overrides."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from ..utils.suggestions import did_you_mean
from .defaults import add_usg_config
from .files import merge_file, merge_overrides, recipe_folders


def get_config_file(name: str) -> str:
    """Path of a recipe: of a file, or of a shipped one by its name, for example `psg/usg_par_convnext_large.yaml`.

    Raises:
        FileNotFoundError: if there is neither; the message says where it was looked for and what there is.
    """
    if Path(name).is_file():
        return name
    roots = recipe_folders()
    for root in roots:
        if (root / name).is_file():
            return str(root / name)
    files = [(root, f) for root in roots for f in root.rglob("*.yaml") if f.parent.name != "vocabularies"]
    known = sorted({str(f.relative_to(root)) for root, f in files})
    tried = ", ".join(
        str(place) for place in (Path(name).absolute(), *(root / name for root in roots if root.is_dir()))
    )
    near = did_you_mean(name.removeprefix("configs/"), known, limit=1)
    raise FileNotFoundError(f"there is no recipe {name!r} ({tried}){near}; shipped are {', '.join(known)}")


def build_cfg(
    config_file: str = "", opts: list[str] | None = None, *, trust_imports: bool = False, imports: bool = True
) -> CfgNode:
    """Defaults, then a recipe, then overrides; not frozen.

    Args:
        config_file: path of a YAML file, or the name of a shipped recipe; "" for the defaults.
        opts: KEY VALUE or KEY=VALUE words, as on the command line.
        trust_imports: import the modules that a file names in IMPORTS wherever it lies; otherwise only files of this
            package and of the working folder may name some.
        imports: import them; otherwise what they register is not known.

    Raises:
        FileNotFoundError: for a recipe that does not exist.
        ValueError: for an unknown key, with the nearest known ones, a value of another type, or a module that cannot be
            found; `UntrustedImportsError` for IMPORTS of a file that is not trusted.
    """
    cfg = get_cfg()
    add_usg_config(cfg)
    if config_file:
        trusted = None if trust_imports or not imports else [Path.cwd().resolve(), *recipe_folders()]
        merge_file(cfg, Path(get_config_file(config_file)), trusted)
    merge_overrides(cfg, list(opts or []))
    if imports:
        _import_modules(cfg.IMPORTS)
    return cfg


def _import_modules(names: list[str]) -> None:
    here = str(Path.cwd())
    if names and here not in sys.path:
        sys.path.append(here)  # recipes in it are trusted, so are their modules
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # a module that it needs is missing
            raise ValueError(f"IMPORTS: there is no module {name!r} in {here} or on PYTHONPATH") from error
