"""Training: the loop with hooks, and the base of trainers."""

from . import hooks
from .defaults import DefaultTrainer
from .train_loop import HookBase, TrainerBase

__all__ = ["DefaultTrainer", "HookBase", "TrainerBase", "hooks"]
