"""Random number generators."""

from __future__ import annotations

import logging
import os
import random

import numpy as np
import torch

__all__ = ["seed_all_rng"]


def seed_all_rng(seed: int | None = None) -> None:
    """Seed Python, NumPy and torch (CPU and every GPU); None draws a seed from the system and logs it."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big") >> 1
        logging.getLogger(__name__).info("Using a generated random seed %d", seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
