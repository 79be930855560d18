"""Relation proposal constructor: which ordered pairs of queries are related (SPEC section 8).

Letters: B images, Q queries, d channels, K selected pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..structures import PairProposals
from .layers import MLP, CosineLogits, MultiheadAttention, keep_present

PRIORITY = 1e4  # above every logit: a cosine times at most 100, plus a bias
ABSENT = -1e4  # logit of what is not there: below every other, and its loss and gradient are exactly 0


def select_pairs(pair_logits: Tensor, num_pairs: int, priority: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Pick the pairs with the highest logits, never a query with itself.

    Args:
        pair_logits: (B, Q, Q); rows are subjects, columns objects.
        num_pairs: K, at most Q * (Q - 1).
        priority: (B, Q, Q) bool, pairs that come before all others, ordered by their own logits.

    Returns:
        subject_index, object_index: each (B, K) int64 query indices, best pair first.

    Raises:
        ValueError: if pair_logits is not square in its last two axes, or K is too large.
    """
    num_queries = pair_logits.shape[-1]
    if pair_logits.shape[-2] != num_queries:
        raise ValueError(f"pair_logits must be (B, Q, Q), got {tuple(pair_logits.shape)}")
    if not 0 < num_pairs <= num_queries * (num_queries - 1):
        raise ValueError(
            f"num_pairs must be between 1 and Q * (Q - 1) = {num_queries * (num_queries - 1)}, got {num_pairs}"
        )
    ranking = pair_logits.detach().double()  # of float32 logits no digit is lost
    if priority is not None:
        # Pairs that come first keep their digits even where an exported network ranks in float32.
        ranking = torch.where(priority, ranking, ranking - PRIORITY)
    diagonal = torch.eye(num_queries, dtype=torch.bool, device=ranking.device)
    ranking = ranking.masked_fill(diagonal, -torch.inf)
    chosen = ranking.flatten(1).topk(num_pairs, dim=1).indices
    return chosen // num_queries, chosen % num_queries


class RelationAwareLayer(nn.Module):
    """One two-way step: subjects look at objects, then objects at the new subjects.

    S = S + CrossAttn(S, O); O = O + CrossAttn(O, S), each attention on LayerNorm-ed inputs, which keeps the sums of
    the formula free of a normalisation of their own.
    """

    def __init__(self, hidden_dim: int, num_heads: int):
        super().__init__()
        self.subject_norm = nn.LayerNorm(hidden_dim)
        self.object_norm = nn.LayerNorm(hidden_dim)
        self.new_subject_norm = nn.LayerNorm(hidden_dim)
        self.subject_to_object = MultiheadAttention(hidden_dim, num_heads)
        self.object_to_subject = MultiheadAttention(hidden_dim, num_heads)

    def forward(self, subjects: Tensor, objects: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, Q, d) each; keep (B, Q, Q) bool, where they may look, or None for everywhere."""
        looked_at = self.object_norm(objects)
        subjects = subjects + self.subject_to_object(self.subject_norm(subjects), looked_at, looked_at, keep)
        looked_at = self.new_subject_norm(subjects)
        objects = objects + self.object_to_subject(self.object_norm(objects), looked_at, looked_at, keep)
        return subjects, objects


class RelationProposalConstructor(nn.Module):
    """Projects queries to subjects and objects, lets them exchange, and scores every ordered pair.

    Args:
        hidden_dim: d.
        num_layers: of two-way cross-attention.
        num_heads: of each attention.
        num_pairs: K.
        logit_scale: turns the pair cosine into the pair logit.
        detach_queries: keep the gradient of the pair logits from the queries, and so from the mask decoder.
    """

    def __init__(
        self,
        hidden_dim: int = 256,
        num_layers: int = 2,
        num_heads: int = 8,
        num_pairs: int = 200,
        logit_scale: CosineLogits | None = None,
        detach_queries: bool = False,
    ):
        super().__init__()
        self.num_pairs = num_pairs
        self.detach_queries = detach_queries
        self.subject_mlp = MLP(hidden_dim, hidden_dim, hidden_dim, 2)
        self.object_mlp = MLP(hidden_dim, hidden_dim, hidden_dim, 2)
        self.layers = nn.ModuleList(RelationAwareLayer(hidden_dim, num_heads) for _ in range(num_layers))
        self.logit_scale = logit_scale or CosineLogits()

    def pair_logits(self, queries: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, Q, d) to (B, Q, Q) float32 logits of "i is the subject and j the object of some relation".

        Queries that are not present (B, Q) take no part, and their pairs have the logit ABSENT.
        """
        keep = None if present is None else keep_present(present)
        if self.detach_queries:
            queries = queries.detach()
        subjects, objects = self.subject_mlp(queries), self.object_mlp(queries)
        for layer in self.layers:
            subjects, objects = layer(subjects, objects, keep)
        with torch.autocast(queries.device.type, enabled=False):  # as in `OpenVocabularyHead`
            subjects = F.normalize(subjects.float(), dim=-1)
            objects = F.normalize(objects.float(), dim=-1)
            logits = self.logit_scale(subjects @ objects.transpose(1, 2))
        if present is None:
            return logits
        return logits.masked_fill(~(present[:, :, None] & present[:, None]), ABSENT)

    def forward(self, queries: Tensor, priority: Tensor | None = None, present: Tensor | None = None) -> PairProposals:
        """Score all pairs and select K.

        Args:
            queries: (B, Q, d).
            priority: (B, Q, Q) bool, pairs to select before all others, or None: annotated ones (training option), or
                those of given objects (PredCls).
            present: (B, Q) bool, or None for all. With it, K is at most the number of pairs of queries.
        """
        logits = self.pair_logits(queries, present)
        num_queries = queries.shape[1]
        num_pairs = self.num_pairs if present is None else min(self.num_pairs, num_queries * (num_queries - 1))
        subject_index, object_index = select_pairs(logits, num_pairs, priority)
        return PairProposals(logits, subject_index, object_index)
