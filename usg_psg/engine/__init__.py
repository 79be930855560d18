"""Training and checkpoints."""

from .checkpoint import USGCheckpointer
from .ema import ModelEMA
from .hooks import TimeLimitHook
from .launch import launch, number_of_processes
from .optimizer import GradientClipper, build_optimizer
from .preflight import check_run
from .step_runner import StepRunner
from .trainer import Trainer, adapt_to_machine

__all__ = [
    "GradientClipper",
    "ModelEMA",
    "StepRunner",
    "TimeLimitHook",
    "Trainer",
    "USGCheckpointer",
    "adapt_to_machine",
    "build_optimizer",
    "check_run",
    "launch",
    "number_of_processes",
]
