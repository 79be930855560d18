"""Classification against text embeddings, for objects and for predicates (SPEC sections 5 and 11)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import MLP, CosineLogits


class OpenVocabularyHead(nn.Module):
    """Logits of features against any set of names: an MLP into the text space, then cosines.

    Args:
        hidden_dim: d.
        text_dim: T, width of the text embeddings.
        num_layers: of the MLP.
        logit_scale: turns cosines into logits.
    """

    def __init__(self, hidden_dim: int, text_dim: int, num_layers: int = 3, logit_scale: CosineLogits | None = None):
        super().__init__()
        self.text_dim = text_dim
        self.projection = MLP(hidden_dim, hidden_dim, text_dim, num_layers)
        self.logit_scale = logit_scale or CosineLogits()

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """Logits in float32.

        Args:
            features: (..., d).
            text: (C, T) unit-length embeddings; C may differ from call to call.

        Returns:
            (..., C), before the sigmoid.

        Raises:
            ValueError: if the text width is not the head's.
        """
        if text.shape[-1] != self.text_dim:
            raise ValueError(f"text embeddings have width {text.shape[-1]}, the head was built for {self.text_dim}")
        features = self.projection(features)
        # In float32, which autocast would undo in the product: half precision loses the digits that the scale
        # magnifies, and scores that are to be ranked would tie.
        with torch.autocast(features.device.type, enabled=False):
            features = F.normalize(features.float(), dim=-1)
            return self.logit_scale(features @ text.float().t())
