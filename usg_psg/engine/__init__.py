"""Training and checkpoints."""

from .checkpoint import USGCheckpointer
from .optimizer import build_optimizer
from .trainer import Trainer, adapt_to_machine

__all__ = ["Trainer", "USGCheckpointer", "adapt_to_machine", "build_optimizer"]
