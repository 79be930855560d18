"""The sets of rules that recall is computed under, and the counts that each keeps of a data set.

Letters: P predicates, K values of k, T annotated triplets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .image_match import Ranks
from .novel_names import PARTS
from .recall import RecallTable, harmonic_mean, mean_over_predicates


@dataclass(frozen=True)
class Protocol:
    """One set of rules.

    Attributes:
        name: prefix of its keys.
        matching: "one_to_one": segments of the panoptic map, each annotated segment matched at most once, IoU above one
            half. "any": the predicted masks, any number for one segment, IoU of one half and above. "rows": as "any",
            but every predicted row takes a rank, repeated ones too, there is no ranking without graph constraint, and
            pair recall counts annotated triplets. "greedy": as "any", but a predicted triplet takes one annotated one
            at most, and duplicates in the annotation count.
        skip_unpredicted: leave images without any predicted triplet out of every mean; otherwise they count as 0.
        absent_as_zero: predicates without annotation count as 0 in mean recall; otherwise they are left out.
        pooled: recall over the triplets of all images together; otherwise per image, then the mean over images.
    """

    name: str
    matching: str
    skip_unpredicted: bool
    absent_as_zero: bool
    pooled: bool = False


PROTOCOLS = (
    # arXiv 2407.09216, SingleMPO.
    Protocol("single", "one_to_one", skip_unpredicted=False, absent_as_zero=False),
    # OpenPSG's matching and means with detection_method "pan_seg", under the graph constraint.
    Protocol("openpsg", "any", skip_unpredicted=True, absent_as_zero=True),
    # OpenPSG's evaluator itself; pair recall as Pair-Net's version of it.
    Protocol("openpsg_rows", "rows", skip_unpredicted=True, absent_as_zero=True),
    Protocol("openpsg_strict", "any", skip_unpredicted=False, absent_as_zero=True),
    # The released USG code's rules, at full resolution.
    Protocol("usg_pooled", "greedy", skip_unpredicted=False, absent_as_zero=False, pooled=True),
)


class ProtocolCounts:
    """Recall tables of a data set under one protocol.

    With zero_shot also of the triplets that are marked as unseen, with novel of the parts of `NovelNames`.
    """

    def __init__(
        self,
        protocol: Protocol,
        ks: Sequence[int],
        num_predicates: int,
        zero_shot: bool = False,
        novel: bool = False,
    ):
        self.protocol = protocol
        names = ["R", "mR", "NgR", "NgmR", "PR"] if protocol.matching != "rows" else ["R", "mR", "PR"]
        names += ["zR"] if zero_shot else []
        names += [f"{name}/{part}" for part in PARTS for name in ("R", "mR")] if novel else []
        self.tables = {name: RecallTable(ks, num_predicates if is_mean(name) else 1) for name in names}

    def add(
        self, ranks: Ranks, unseen: np.ndarray | None = None, parts: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Count one image.

        Args:
            ranks: of its annotated triplets.
            unseen: (T,) bool, the triplet's type is not in the training data; for zero-shot recall, else None.
            parts: (T,) bool of each of `PARTS`, where those are counted.
        """
        if ("zR" in self.tables) != (unseen is not None):
            raise ValueError(f"unseen: expected it exactly for zero-shot recall, got {unseen}")
        predicate = ranks.triplets[:, 2]
        self.tables["R"].add(ranks.constrained)
        self.tables["mR"].add(ranks.constrained, predicate)
        self.tables["PR"].add(ranks.pairs)
        if ranks.unconstrained is not None:
            self.tables["NgR"].add(ranks.unconstrained)
            self.tables["NgmR"].add(ranks.unconstrained, predicate)
        if unseen is not None:
            self.tables["zR"].add(ranks.constrained[unseen])
        for part, chosen in (parts or {}).items():
            self.tables[f"R/{part}"].add(ranks.constrained[chosen])
            self.tables[f"mR/{part}"].add(ranks.constrained[chosen], predicate[chosen])

    def merge(self, other: ProtocolCounts) -> None:
        """Add the counts of another process."""
        for name, table in self.tables.items():
            table.merge(other.tables[name])

    def metrics(self, groups: Mapping[str, np.ndarray]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Percentages; groups are "head", "body", "tail" to predicate indices.

        Returns:
            metrics: by key, e.g. "single/mR@50", "single/mR@50/head", "single/R@50/novel_class".
            per_predicate: "mR" and "NgmR" to recalls of each predicate, (K, P), NaN for absent ones.
        """
        metrics: dict[str, float] = {}
        per_predicate = {}
        prefix, as_zero = self.protocol.name, self.protocol.absent_as_zero
        for name, table in self.tables.items():
            recall = 100.0 * (table.pooled() if self.protocol.pooled else table.image_mean())
            metric, slash, part = name.partition("/")
            keys = [f"{prefix}/{metric}@{k}{slash}{part}" for k in table.ks]
            if slash and is_mean(name):
                metrics.update({key: mean_over_predicates(r, False) for key, r in zip(keys, recall, strict=True)})
                continue
            if not is_mean(name):
                metrics.update({key: float(r[0]) for key, r in zip(keys, recall, strict=True)})
                continue
            per_predicate[name] = recall
            for k, row in zip(table.ks, recall, strict=True):
                key = f"{prefix}/{name}@{k}"
                metrics[key] = mean_over_predicates(row, as_zero)
                if name == "mR":
                    metrics[f"{prefix}/F@{k}"] = harmonic_mean(metrics[f"{prefix}/R@{k}"], metrics[key])
                    metrics.update({f"{key}/{g}": mean_over_predicates(row, as_zero, a) for g, a in groups.items()})
        return metrics, per_predicate


def is_mean(name: str) -> bool:
    """Whether a recall is a mean over predicates, "mR" or "NgmR"."""
    return "mR" in name
