"""The shared mask decoder: queries attend to each other and to the pixels of their own mask (SPEC section 4).

Letters: B images, Q queries, N given queries, d channels, L prediction layers (decoder layers plus one), S pixels of a
level.
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..structures import GivenQueries, MaskDecoderOutput, PixelDecoderOutput
from ..utils.allowed import one_of
from .build import MASK_DECODER_REGISTRY, Region
from .layers import MLP, AttentionBlock, FeedForwardBlock, downsample, flatten_level, keep_present

LAYER_ORDERS = one_of("self_first", "cross_first")


class MaskDecoderLayer(nn.Module):
    """Self-attention and masked cross-attention in either order, then a feed-forward network."""

    def __init__(self, hidden_dim: int, num_heads: int, ffn_dim: int, cross_first: bool):
        super().__init__()
        self.cross_first = cross_first
        self.self_attention = AttentionBlock(hidden_dim, num_heads)
        self.cross_attention = AttentionBlock(hidden_dim, num_heads)
        self.ffn = FeedForwardBlock(hidden_dim, ffn_dim)

    def forward(
        self,
        x: Tensor,
        x_pos: Tensor,
        memory: Tensor,
        key: Tensor,
        keep: Tensor,
        keep_queries: Tensor | None = None,
    ) -> Tensor:
        """Queries (B, Q, d) attend to memory (B, S, d), by its key, where keep (B, Q, S) is True, and to each other.

        With keep_queries (B, Q, Q), only to those of them for which it is True.
        """
        if self.cross_first:
            x = self.cross_attention(x, memory, x_pos, key, keep)
            x = self.self_attention(x, x_pos=x_pos, keep=keep_queries)
        else:
            x = self.self_attention(x, x_pos=x_pos, keep=keep_queries)
            x = self.cross_attention(x, memory, x_pos, key, keep)
        return self.ffn(x)


@MASK_DECODER_REGISTRY.register()
class MaskDecoder(nn.Module):
    """Masked-attention transformer decoder, with the structure of Mask2Former's.

    Each layer attends to one level of the pixel decoder, in turn from coarse to fine, and only inside the mask that
    the layer before it predicts. A mask is linear in the mask features, so it is computed at the level's own
    resolution from features that are resized once per level; no full-size mask exists until something asks for it.

    Args:
        hidden_dim: d.
        num_queries: Q.
        num_layers: of the decoder; predictions are made before the first and after each.
        num_heads, ffn_dim: of the layers.
        num_levels: maps in `multi_scale_features`.
        layer_order: "self_first" (SPEC section 4) or "cross_first" (Mask2Former).
        deep_supervision: hand on the predictions of all layers, which losses then look at, not only the last.
    """

    @configurable
    def __init__(
        self,
        *,
        hidden_dim: int = 256,
        num_queries: int = 100,
        num_layers: int = 6,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        num_levels: int = 3,
        layer_order: str = "self_first",
        deep_supervision: bool = True,
    ):
        super().__init__()
        LAYER_ORDERS.check("layer_order", layer_order)
        self.deep_supervision = deep_supervision
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(num_levels, hidden_dim)
        self.layers = nn.ModuleList(
            MaskDecoderLayer(hidden_dim, num_heads, ffn_dim, layer_order == "cross_first") for _ in range(num_layers)
        )
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.mask_embed = MLP(hidden_dim, hidden_dim, hidden_dim, 3)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Arguments from MODEL.USG.MASK_DECODER."""
        node = cfg.MODEL.USG.MASK_DECODER
        return {
            "hidden_dim": cfg.MODEL.USG.HIDDEN_DIM,
            "num_queries": node.NUM_QUERIES,
            "num_layers": node.NUM_LAYERS,
            "num_heads": node.NUM_HEADS,
            "ffn_dim": node.FFN_DIM,
            "layer_order": node.LAYER_ORDER,
            "deep_supervision": node.DEEP_SUPERVISION,
        }

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.query_feat.num_embeddings

    def forward(self, pixel_features: PixelDecoderOutput) -> MaskDecoderOutput:
        """Decode a batch."""
        batch = pixel_features.mask_features.shape[0]
        memories, keys, mask_features = self._prepare_levels(pixel_features)
        # In memory as behind a layer, since `_predict` is compiled once.
        x = self.query_feat.weight.expand(batch, -1, -1).contiguous()
        x_pos = self.query_embed.weight.expand(batch, -1, -1)
        predictions = [self._predict(x)]
        for index, layer in enumerate(self.layers):
            level = index % len(memories)
            keep = self._attention_mask(predictions[-1][1], mask_features[level])
            x = layer(x, x_pos, memories[level], keys[level], keep)
            predictions.append(self._predict(x))
        queries, embeddings = zip(*predictions, strict=True)
        first = 0 if self.deep_supervision else -1
        return MaskDecoderOutput(torch.stack(queries[first:]), torch.stack(embeddings[first:]))

    def regions(self) -> dict[str, list[Region]]:
        """What `compile_parts` compiles one by one, layers of the same code once for all levels."""
        layers: list[Region] = [(layer, "forward", (None, None, 1, 1, 2)) for layer in self.layers]
        regions = [(self, "_prepare_levels", ()), *layers, (self, "_predict", ())]
        return {"forward": [*regions, (self, "_attention_mask", (None, 2))], "forward_given": regions}

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and mask embeddings behind a layer, (..., d) each."""
        query = self.decoder_norm(x)
        return query, self.mask_embed(query)

    def forward_given(self, pixel_features: PixelDecoderOutput, given: GivenQueries) -> MaskDecoderOutput:
        """Decode queries of given objects, in whose masks every layer looks; nothing is predicted before the first."""
        memories, keys, _ = self._prepare_levels(pixel_features)
        x, keep_queries = given.features, keep_present(given.present)
        queries = []
        for index, layer in enumerate(self.layers):
            level = index % len(memories)
            x = layer(x, given.positions, memories[level], keys[level], given.inside[level], keep_queries)
            queries.append(self.decoder_norm(x))
        stacked = torch.stack(queries if self.deep_supervision else queries[-1:])
        return MaskDecoderOutput(stacked, self.mask_embed(stacked))

    def _prepare_levels(self, pixel_features: PixelDecoderOutput) -> tuple[list, list, list]:
        """Per level: memory (B, S, d), the same with positions, and mask features (B, d, S) of that size, detached."""
        memories, keys, mask_features = [], [], []
        for feature, embed in zip(pixel_features.multi_scale_features, self.level_embed.weight, strict=True):
            memory, key = flatten_level(feature, embed)
            memories.append(memory)
            keys.append(key)
            size = (feature.shape[-2], feature.shape[-1])
            mask_features.append(downsample(pixel_features.mask_features.detach(), size).flatten(2))
        return memories, keys, mask_features

    @staticmethod
    @torch.no_grad()
    def _attention_mask(mask_embeddings: Tensor, mask_features: Tensor) -> Tensor:
        """(B, Q, S) bool, True inside the predicted mask; a query whose mask is empty looks everywhere."""
        inside = mask_embeddings @ mask_features >= 0  # a logit of 0 is a probability of one half
        return inside | ~inside.any(dim=-1, keepdim=True)
