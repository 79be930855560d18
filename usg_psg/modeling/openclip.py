"""OpenCLIP models by name: weights by tag, by path, or random. The only file of the model that reads weights."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..utils.files import check_archive
from ..utils.lazy_module import LazyModule
from ..utils.suggestions import did_you_mean

if TYPE_CHECKING:
    import open_clip
    import timm
    from timm.models.convnext import ConvNeXt
else:
    open_clip, timm = LazyModule("open_clip"), LazyModule("timm")

# Random text towers must agree between the process that trains and the one that evaluates.
RANDOM_WEIGHTS_SEED = 0
RANDOM = "random"
PROJECT_MODELS = Path(__file__).parent / "openclip_configs"
_END = 65536  # bytes; of an archive of torch, the checksums of its tensors
_from_checkpoint: ContextVar[bool] = ContextVar("from_checkpoint", default=False)


@contextmanager
def checkpoint_weights() -> Iterator[None]:
    """Build backbones without reading weights by MODEL.CLIP or MODEL.TIMM: a checkpoint with them is loaded next."""
    token = _from_checkpoint.set(True)
    try:
        yield
    finally:
        _from_checkpoint.reset(token)


def takes_checkpoint_weights() -> bool:
    """Whether this is inside `checkpoint_weights`."""
    return _from_checkpoint.get()


@lru_cache(maxsize=1)
def register_project_models() -> None:
    """Make this project's small models known to timm (`usg_convnext_yocto`) and OpenCLIP (`usg_convnext_zepto` ...)."""
    _register_trunk()
    open_clip.add_model_config(PROJECT_MODELS)


@lru_cache(maxsize=1)
def _register_trunk() -> None:
    timm.models.register_model(usg_convnext_yocto)


def usg_convnext_yocto(pretrained: bool = False, pretrained_cfg: dict | None = None, **kwargs) -> ConvNeXt:
    """A ConvNeXt of 1.2 million weights that learns in few steps: without layer scale, which starts as 1e-6."""
    kwargs |= {"depths": (1, 1, 3, 1), "dims": (32, 64, 128, 256), "ls_init_value": None, "act_layer": "relu"}
    cfg = pretrained_cfg or {"input_size": (3, 160, 160)}
    return timm.models.build_model_with_cfg(timm.models.ConvNeXt, "usg_convnext_yocto", pretrained, cfg, **kwargs)


@contextmanager
def _root_logger_left_alone(quiet: bool) -> Iterator[None]:
    """OpenCLIP logs through the root logger, which gives it a handler that would then print every message twice.

    Args:
        quiet: drop what it has to say of random weights, which a checkpoint may replace.
    """
    root, handler = logging.getLogger(), logging.NullHandler()

    def keep(record: logging.LogRecord) -> bool:
        return not (quiet and Path(record.pathname).parent.name == "open_clip" and record.levelno <= logging.WARNING)

    root.addHandler(handler)
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
        root.removeHandler(handler)


class _NoInitialisation(TorchFunctionMode):
    """New weights stay as memory was, where all that are used are read next: to draw them takes longer."""

    DRAW = ("uniform_", "normal_", "erfinv_")
    SCALE = ("mul_", "add_", "clamp_")

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name, target = getattr(func, "__name__", None), args[0] if args else kwargs.get("tensor")
        scales = name in self.SCALE and isinstance(target, nn.Parameter)
        if getattr(func, "__module__", None) == nn.init.__name__ or name in self.DRAW or scales:
            return target
        return func(*args, **kwargs)


def load_openclip(name: str, pretrained: str = "") -> open_clip.CLIP:
    """Build an OpenCLIP model on the CPU, in float32 and eval mode.

    Args:
        name: OpenCLIP model name, for example "convnext_large_d_320".
        pretrained: OpenCLIP tag (downloaded by OpenCLIP into its cache on first use), path of a weight file, or ""
            for random weights, which are the same in every process.

    Raises:
        ValueError: if the name or the tag is unknown, the file does not exist or is damaged, or the weights cannot be
            had or do not fit the model; the message names both.
    """
    check_openclip(name, pretrained)
    register_project_models()
    if Path(pretrained).is_file():
        try:
            check_archive(pretrained)
        except ValueError as error:
            raise ValueError(f"MODEL.CLIP.PRETRAINED {pretrained} cannot be read: {error}") from error
    with torch.random.fork_rng(devices=[]), _root_logger_left_alone(quiet=not pretrained):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        try:
            # A file that lacks a weight is refused, by OpenCLIP or, as a checkpoint, by `USGCheckpointer`.
            with _NoInitialisation() if pretrained or takes_checkpoint_weights() else nullcontext():
                model = open_clip.create_model(name, pretrained=pretrained or None)
        except Exception as error:
            if not pretrained:
                raise
            raise ValueError(
                f"OpenCLIP {name} could not be loaded with weights {pretrained!r}: {error}. Without a network, "
                "give the path of a downloaded weight file as MODEL.CLIP.PRETRAINED."
            ) from error
    return model.eval()


def load_trunk(name: str, pretrained: str = "") -> nn.Module:
    """The timm network inside the image tower of an OpenCLIP model, on the CPU, in float32 and eval mode.

    Where the weights are in a file, or come from a checkpoint later, it is built by itself: to import OpenCLIP, with
    transformers, takes seconds, and to build and fill a text tower that is thrown away takes more. Of a file, nothing
    but stem and stages is read then, so the rest may be missing; the trunk's head stays memory as it was.

    Args:
        name, pretrained: as in `load_openclip`.

    Raises:
        ValueError: as `load_openclip`, or if the image tower is not one of timm.
    """
    if Path(pretrained).is_file() or takes_checkpoint_weights():
        trunk = _trunk_alone(name, pretrained)
        if trunk is not None:
            return trunk.eval()
    return timm_trunk(load_openclip(name, pretrained), name)


def timm_trunk(clip: open_clip.CLIP, name: str) -> nn.Module:
    """The timm network in the image tower of the model of this name; ValueError if it has none."""
    trunk = getattr(clip.visual, "trunk", None)
    if trunk is None:
        raise ValueError(f"MODEL.CLIP.NAME {name!r} has no timm image tower")
    return trunk


def _trunk_alone(name: str, pretrained: str) -> nn.Module | None:
    """None for what only OpenCLIP can build or read, or has to refuse."""
    tower = (_model_config(name) or {}).get("vision_cfg", {})
    if "timm_model_name" not in tower:
        return None
    with ThreadPoolExecutor(1) as meanwhile:
        checked = None if takes_checkpoint_weights() else meanwhile.submit(check_archive, pretrained)
        _register_trunk()
        path = tower.get("timm_drop_path")
        with torch.random.fork_rng(devices=[]), _NoInitialisation():
            trunk = timm.create_model(tower["timm_model_name"], **({} if path is None else {"drop_path_rate": path}))
        if checked is None:
            return trunk
        prefix = "visual.trunk."
        wanted = {key: x for key, x in trunk.state_dict().items() if key.startswith(("stem.", "stages."))}
        try:
            given = _read_weights(pretrained, prefix)
            given = {key: x for key, x in given.items() if key.startswith(("stem.", "stages."))}
            if not wanted or {key: x.shape for key, x in given.items()} != {key: x.shape for key, x in wanted.items()}:
                return None
            trunk.load_state_dict(given, strict=False)
            checked.result()  # else damaged weights would be taken
        except Exception:  # as many kinds as formats: OpenCLIP reads it, or says what is wrong
            return None
    return trunk


def _read_weights(path: str, prefix: str) -> dict[str, Tensor]:
    """Tensors of a file of OpenCLIP's whose names begin so, without the beginning; the others are not read."""
    if path.endswith(".safetensors"):
        with safe_open(path, framework="pt") as file:
            return {key.removeprefix(prefix): file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    found = found.get("state_dict", found)
    return {key.removeprefix(prefix): x for key, x in found.items() if key.startswith(prefix)}


@lru_cache
def _model_config(name: str) -> dict | None:
    """Of an OpenCLIP model, by its exact name; None for an unknown one."""
    package = importlib.util.find_spec("open_clip")  # without importing it
    folders = [Path(folder) / "model_configs" for folder in (package and package.submodule_search_locations) or ()]
    for folder in (PROJECT_MODELS, *folders):
        file = folder / f"{name}.json"
        if file.parent == folder and file.is_file():
            return json.loads(file.read_text())
    return None


def check_openclip(name: str, pretrained: str = "") -> None:
    """Refuse a model name, a tag or a weight file that does not exist, without reading weights.

    Raises:
        ValueError: names the nearest models, or the tags of the model.
    """
    if _model_config(name) is not None and (not pretrained or Path(pretrained).is_file()):
        return
    register_project_models()
    known = open_clip.list_models()
    if name not in known:
        raise ValueError(f"MODEL.CLIP.NAME {name!r} is not an OpenCLIP model{did_you_mean(name, known, limit=1)}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained and pretrained not in tags and not Path(pretrained).is_file():
        raise ValueError(
            f"MODEL.CLIP.PRETRAINED {pretrained!r} is neither a weight file nor a tag of {name} "
            f"(tags: {', '.join(tags) or 'none'}); use '' for random weights"
        )


def weights_identity(name: str, pretrained: str = "", library: str = "") -> dict[str, str]:
    """What identifies the weights of a library's model, for caches and checkpoints, without reading them all.

    A weight file counts by its name, size and end, not by its folder or date, so that a copy on another machine is the
    same, and weights trained anew under the old name are not.
    Random weights depend on the library's initialisation, so they carry its version; "" is OpenCLIP's.
    """
    identity = {"model": name, "weights": pretrained}
    if not pretrained:
        identity["weights"] = f"{RANDOM}, seed {RANDOM_WEIGHTS_SEED}, {library or f'open_clip {open_clip.__version__}'}"
    elif Path(pretrained).is_file():
        path, size = Path(pretrained), Path(pretrained).stat().st_size
        with open(path, "rb") as file:
            file.seek(max(0, size - _END))
            end = hashlib.sha256(file.read()).hexdigest()[:12]
        identity["weights"] = f"{path.name}, {size} bytes, end {end}"
    return identity


def is_random(identity: Mapping[str, str]) -> bool:
    """Whether a `weights_identity` is that of random weights."""
    return identity.get("weights", "").startswith(f"{RANDOM}, seed ")
