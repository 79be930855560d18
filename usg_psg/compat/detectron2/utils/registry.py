"""fvcore's registry, under Detectron2's name."""

from fvcore.common.registry import Registry

__all__ = ["Registry"]
