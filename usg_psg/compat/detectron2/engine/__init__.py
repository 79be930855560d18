"""Training: the loop with hooks, the base of trainers and set-up."""

from . import hooks
from .defaults import DefaultTrainer, default_setup, default_writers
from .train_loop import HookBase, TrainerBase

__all__ = ["DefaultTrainer", "HookBase", "TrainerBase", "default_setup", "default_writers", "hooks"]
