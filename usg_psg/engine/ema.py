"""Moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..utils.allowed import BELOW_ONE


class ModelEMA:
    """average = d * average + (1 - d) * weights, after each step; frozen weights have none.

    d = min(decay, (1 + n) / (10 + n)) after n earlier steps, so that the first weights are soon forgotten.

    Args:
        model: its trained parameters are averaged.
        decay: in [0, 1).

    Source: the warm-up of `tf.train.ExponentialMovingAverage` and of timm.

    Attributes:
        restored: whether a checkpoint's averages were loaded.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9998):
        BELOW_ONE.check("decay", decay)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names = list(trained)
        self.parameters = list(trained.values())
        self.averages = [p.detach().clone() for p in self.parameters]
        self.decay = decay
        self.restored = False

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Take in the present weights, after step `iteration` of the run, from 0."""
        average = get_ema_multi_avg_fn(min(self.decay, (1 + iteration) / (10 + iteration)))
        average(self.averages, [p.detach() for p in self.parameters], None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averages for weights inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(held)

    def state_dict(self) -> dict[str, Tensor]:
        """Averages by parameter name."""
        return dict(zip(self.names, self.averages, strict=True))

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: if names or shapes are not those of the model.
        """
        if set(state_dict) != set(self.names):
            raise ValueError(f"averages of other weights: {sorted(set(state_dict) ^ set(self.names))[:5]} ...")
        for name, average in zip(self.names, self.averages, strict=True):
            if state_dict[name].shape != average.shape:
                raise ValueError(f"{name} is {tuple(state_dict[name].shape)}, the model's is {tuple(average.shape)}")
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(state_dict[name])
        self.restored = True

    def reset(self) -> None:
        """Start again from the present weights, after others were loaded."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.averages, strict=True):
                average.copy_(parameter)
