"""Pairs to relation queries to predicates (SPEC sections 8, 10 and 11).

Letters: B images, Q queries, d channels, K selected pairs, P predicates, T text width, S pixels of a level.
"""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..structures import PairProposals, PixelDecoderOutput
from ..utils.allowed import Allowed, one_of
from .build import RELATION_HEAD_REGISTRY, Region
from .layers import MLP, AttentionBlock, CosineLogits, FeedForwardBlock, flatten_level, keep_present
from .open_vocab_head import OpenVocabularyHead
from .rpc import ABSENT, RelationProposalConstructor

QUERY_FORMS = one_of("concat", "embedded")
FEATURE_LEVELS = Allowed(
    "some of 0 (stride 32), 1 (16), 2 (8)", lambda levels: len(levels) > 0 and set(levels) <= {0, 1, 2}
)


class RelationQueries(nn.Module):
    """Relation queries r_ij = MLP(q_i | q_j) (SPEC section 10).

    Args:
        hidden_dim: d.
        form: "concat", or "embedded", which adds a learned subject and object embedding first, as the released code.
    """

    def __init__(self, hidden_dim: int, form: str = "concat"):
        super().__init__()
        QUERY_FORMS.check("form", form)
        self.role_embed = nn.Embedding(2, hidden_dim) if form == "embedded" else None
        self.mlp = MLP(2 * hidden_dim, hidden_dim, hidden_dim, 2)

    def forward(self, queries: Tensor, subject_index: Tensor, object_index: Tensor) -> Tensor:
        """(B, Q, d) and two (B, K) to (B, K, d)."""
        rows = torch.arange(queries.shape[0], device=queries.device)[:, None]
        subjects, objects = queries[rows, subject_index], queries[rows, object_index]
        if self.role_embed is not None:
            subjects, objects = subjects + self.role_embed.weight[0], objects + self.role_embed.weight[1]
        return self.mlp(torch.cat([subjects, objects], dim=-1))


class RelationDecoderLayer(nn.Module):
    """Self-attention of relation queries, cross-attention to pixels, feed-forward network."""

    def __init__(self, hidden_dim: int, num_heads: int, ffn_dim: int):
        super().__init__()
        self.self_attention = AttentionBlock(hidden_dim, num_heads)
        self.cross_attention = AttentionBlock(hidden_dim, num_heads)
        self.ffn = FeedForwardBlock(hidden_dim, ffn_dim)

    def forward(self, x: Tensor, memory: Tensor, key: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, K, d) attending to memory (B, S, d), by its key, and to each other where keep (B, K, K) is True."""
        x = self.self_attention(x, keep=keep)
        return self.ffn(self.cross_attention(x, memory, key=key))


class RelationDecoder(nn.Module):
    """Transformer decoder of relation queries over the pixel decoder's levels (SPEC section 11).

    Args:
        hidden_dim: d.
        num_layers, num_heads, ffn_dim: of the layers.
        feature_levels: indices into `multi_scale_features` that the layers attend to in turn.
    """

    def __init__(
        self,
        hidden_dim: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        feature_levels: tuple[int, ...] = (0, 1, 2),
    ):
        super().__init__()
        FEATURE_LEVELS.check("feature_levels", feature_levels)
        # Levels that no layer reaches would never receive a gradient.
        self.feature_levels = tuple(feature_levels)[:num_layers]
        self.level_embed = nn.Embedding(len(self.feature_levels), hidden_dim) if self.feature_levels else None
        self.layers = nn.ModuleList(RelationDecoderLayer(hidden_dim, num_heads, ffn_dim) for _ in range(num_layers))

    def forward(
        self, relation_queries: Tensor, pixel_features: PixelDecoderOutput, present: Tensor | None = None
    ) -> Tensor:
        """(B, K, d) to (B, K, d); queries that are not present (B, K) are not looked at."""
        if self.level_embed is None:
            return relation_queries
        levels = self._levels(pixel_features)
        x, keep = relation_queries, None if present is None else keep_present(present)
        for index, layer in enumerate(self.layers):
            x = layer(x, *levels[index % len(levels)], keep)
        return x

    def _levels(self, pixel_features: PixelDecoderOutput) -> list[tuple[Tensor, Tensor]]:
        """Memory and keys of each level."""
        assert self.level_embed is not None
        return [
            flatten_level(pixel_features.multi_scale_features[level], embed)
            for level, embed in zip(self.feature_levels, self.level_embed.weight, strict=True)
        ]


@RELATION_HEAD_REGISTRY.register()
class RelationHead(nn.Module):
    """Proposals, relation queries, relation decoder and predicate classifier.

    Args:
        rpc: the relation proposal constructor.
        relation_queries: builds a query per pair.
        relation_decoder: refines them with pixel features.
        predicate_head: scores them against predicate text embeddings.
    """

    @configurable
    def __init__(
        self,
        *,
        rpc: RelationProposalConstructor,
        relation_queries: RelationQueries,
        relation_decoder: RelationDecoder,
        predicate_head: OpenVocabularyHead,
    ):
        super().__init__()
        self.rpc = rpc
        self.relation_queries = relation_queries
        self.relation_decoder = relation_decoder
        self.predicate_head = predicate_head

    @classmethod
    def from_config(cls, cfg: CfgNode, text_dim: int) -> dict:
        """Arguments from MODEL.USG.RELATION_HEAD."""
        hidden_dim = cfg.MODEL.USG.HIDDEN_DIM
        node = cfg.MODEL.USG.RELATION_HEAD
        num_queries = cfg.MODEL.USG.MASK_DECODER.NUM_QUERIES
        if not 0 < node.RPC.NUM_PAIRS <= num_queries * (num_queries - 1):
            raise ValueError(
                f"MODEL.USG.RELATION_HEAD.RPC.NUM_PAIRS must be between 1 and {num_queries * (num_queries - 1)} "
                f"for {num_queries} queries, got {node.RPC.NUM_PAIRS}"
            )

        def logit_scale(part: CfgNode) -> CosineLogits:
            return CosineLogits(part.LOGIT_SCALE, part.SCALE_INIT, part.PRIOR_PROB)

        return {
            "rpc": RelationProposalConstructor(
                hidden_dim,
                node.RPC.NUM_LAYERS,
                node.RPC.NUM_HEADS,
                node.RPC.NUM_PAIRS,
                logit_scale(node.RPC),
                node.RPC.DETACH_QUERIES,
            ),
            "relation_queries": RelationQueries(hidden_dim, node.QUERY_FORM),
            "relation_decoder": RelationDecoder(
                hidden_dim, node.NUM_LAYERS, node.NUM_HEADS, node.FFN_DIM, tuple(node.FEATURE_LEVELS)
            ),
            "predicate_head": OpenVocabularyHead(
                hidden_dim, text_dim, node.PREDICATE.NUM_LAYERS, logit_scale(node.PREDICATE)
            ),
        }

    def regions(self) -> dict[str, list[Region]]:
        """What `compile_parts` compiles one by one, layers of the same code once for all levels."""
        decoder = self.relation_decoder
        layers: list[Region] = [(layer, "forward", (None, 1, 1)) for layer in decoder.layers]
        regions: list[Region] = [(self.relation_queries, "forward", ()), (self.predicate_head, "forward", ())]
        return {"decode": [*regions, *([(decoder, "_levels", ()), *layers] if layers else [])]}

    def propose(self, queries: Tensor, priority: Tensor | None = None, present: Tensor | None = None) -> PairProposals:
        """Pair scores and the K best pairs of (B, Q, d) queries; `RelationProposalConstructor` has the arguments."""
        return self.rpc(queries, priority, present)

    def decode(
        self,
        queries: Tensor,
        proposals: PairProposals,
        pixel_features: PixelDecoderOutput,
        predicate_text: Tensor,
        present: Tensor | None = None,
    ) -> Tensor:
        """Predicate logits (B, K, P) of the selected pairs, for predicate_text (P, T).

        Pairs of queries that are not present (B, Q) take no part, and have the logits ABSENT.
        """
        relations = self.relation_queries(queries, proposals.subject_index, proposals.object_index)
        if present is None:
            return self.predicate_head(self.relation_decoder(relations, pixel_features), predicate_text)
        pairs = present.gather(1, proposals.subject_index) & present.gather(1, proposals.object_index)
        logits = self.predicate_head(self.relation_decoder(relations, pixel_features, pairs), predicate_text)
        return logits.masked_fill(~pairs[..., None], ABSENT)
