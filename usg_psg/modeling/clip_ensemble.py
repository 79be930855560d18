"""Class scores of the model and of CLIP itself, mixed outside of training (FC-CLIP, Yu et al. 2023, arXiv 2308.02487).

Letters: B images, Q queries, d channels of a query, c of the trunk, C classes, T text width, h w the trunk's last map.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import Tensor, nn

from ..data.register_psg import get_vocabulary
from ..structures import ObjectPredictions
from ..utils.text import spoken_name
from ..vocabulary import Vocabulary
from .layers import CosineLogits, downsample


class CLIPVisualHead(nn.Module):
    """CLIP's logits of image regions: its own head and projection on the mean of its features in a mask; frozen.

    Args:
        visual: OpenCLIP's image tower, with a timm ConvNeXt.
        log_scale: CLIP's learned scale of cosines, as a logarithm.

    Raises:
        ValueError: if the tower pools with attention, which a mean does not replace.
    """

    scale: Tensor

    def __init__(self, visual: Any, log_scale: Tensor):
        super().__init__()
        if hasattr(visual.head, "pool"):
            raise ValueError("CLASS_HEAD.CLIP_ENSEMBLE: expected an image tower that averages its features")
        self.norm: nn.Module = visual.trunk.norm_pre
        self.head = nn.Sequential(visual.trunk.head, visual.head)
        self.register_buffer("scale", log_scale.detach().exp().clamp(max=CosineLogits.MAX_SCALE))
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, dense: Tensor, inside: Tensor, text: Tensor) -> Tensor:
        """Logits (B, Q, C) in float32.

        Args:
            dense: (B, c, h, w) last features of the trunk.
            inside: (B, Q, h, w) bool masks; the logits of an empty one mean nothing.
            text: (C, T) unit-length embeddings.
        """
        with torch.autocast(dense.device.type, enabled=False):
            pixels = self.norm(dense.float()).flatten(2).transpose(1, 2)
            masks = inside.flatten(2).float()
            pooled = masks @ pixels / masks.sum(dim=-1, keepdim=True).clamp(min=1)
            embeddings = self.head(pooled.flatten(0, 1)[..., None, None]).unflatten(0, inside.shape[:2])
            return self.scale * (F.normalize(embeddings, dim=-1) @ text.float().t())


class CLIPEnsemble(nn.Module):
    """Moves class scores towards CLIP's, those of names that were not trained on further than others.

    Args:
        seen: names that the model was trained on; commas separate synonyms.
        alpha: CLIP's part in the scores of seen names.
        beta: its part in those of all others.
    """

    weight: Tensor

    def __init__(self, seen: Iterable[str], alpha: float = 0.4, beta: float = 0.8):
        super().__init__()
        self.seen = frozenset(word for name in seen for word in _words(name))
        self.alpha, self.beta = alpha, beta
        self.register_buffer("weight", torch.empty(0), persistent=False)

    def set_names(self, names: Sequence[str] | None) -> None:
        """Classify into these names. One is seen if one of its words, COCO's suffixes aside, is a seen name's, too.

        Raises:
            ValueError: if there are none.
        """
        if names is None:
            raise ValueError("object_names: CLIP_ENSEMBLE needs the names of the classes, got none")
        weight = [self.beta if self.seen.isdisjoint(_words(name)) else self.alpha for name in names]
        self.weight = torch.tensor(weight, device=self.weight.device)

    @torch.no_grad()
    def forward(
        self,
        objects: ObjectPredictions,
        dense: Tensor,
        text: Tensor,
        visual_head: CLIPVisualHead,
        weight: Tensor | None = None,
    ) -> ObjectPredictions:
        """Predictions with other logits, in float32; a query without a pixel at the trunk's resolution keeps its own.

        Args:
            objects: of one layer.
            dense: (B, c, h, w) last features of the trunk.
            text: (C, T) unit-length embeddings of the names.
            visual_head: of the CLIP model that the trunk is part of.
            weight: (C,) CLIP's part in each name's score, if not that of `set_names`.
        """
        with torch.autocast(dense.device.type, enabled=False):
            features = downsample(objects.mask_features.float(), (dense.shape[-2], dense.shape[-1]))
            inside = torch.einsum("bqd,bdhw->bqhw", objects.mask_embeddings[-1].float(), features) > 0
        logits = objects.class_logits[-1]
        mixed = geometric_ensemble(logits, visual_head(dense, inside, text), self.weight if weight is None else weight)
        logits = torch.where(inside.flatten(2).any(dim=-1, keepdim=True), mixed, logits)
        return replace(objects, class_logits=logits[None])


def geometric_ensemble(logits: Tensor, clip_logits: Tensor, weight: Tensor) -> Tensor:
    """Logits whose odds are a query's total odds, divided among the classes as FC-CLIP divides them.

    FC-CLIP ends in a softmax with a class "void". It multiplies p^(1 - w) q^w of the two softmaxes over the other
    classes, normalises the products to e, and keeps the probability of void: e_c (1 - p_void). Here a class has a
    sigmoid and nothing is void; read as such a softmax, the logits l have p = softmax(l) and
    1 - p_void = sigmoid(logsumexp(l)). So logit_c = log(e_c) + logsumexp(l): with w = 0 it is l_c itself, and a query
    that is no object for the model gets no more odds from CLIP, which cannot tell.

    Args:
        logits: (..., C) of the model, before the sigmoid.
        clip_logits: (..., C) of CLIP, before the softmax.
        weight: (C,) part of CLIP, in [0, 1].

    Source: arXiv 2308.02487, section 3.3, geometric ensemble; adapted to sigmoids.
    """
    logits = logits.float()
    product = (1 - weight) * logits.log_softmax(dim=-1) + weight * clip_logits.log_softmax(dim=-1)
    return product.log_softmax(dim=-1) + logits.logsumexp(dim=-1, keepdim=True)


def build_clip_ensemble(cfg: CfgNode) -> CLIPEnsemble | None:
    """The ensemble of MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE, None where it is off.

    Raises:
        ValueError: if nothing says which names the model was trained on.
    """
    node = cfg.MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE
    if not node.ENABLED:
        return None
    source = node.SEEN or next(iter(cfg.DATASETS.TRAIN), "")
    if not source:
        raise ValueError(
            "MODEL.USG.CLASS_HEAD.CLIP_ENSEMBLE.SEEN: DATASETS.TRAIN is empty, so give the data set, or a vocabulary "
            "file with the names, that the model was trained on"
        )
    return CLIPEnsemble(_object_names(source), node.ALPHA, node.BETA)


def _object_names(source: str) -> list[str]:
    """Of a registered data set or a vocabulary file."""
    if source in DatasetCatalog.list():
        return list(get_vocabulary(source).object_classes)
    file = Vocabulary.read(source)
    return list(file.with_synonyms(file.object_classes))


def _words(name: str) -> list[str]:
    return [spoken_name(word).casefold() for word in name.split(",")]
