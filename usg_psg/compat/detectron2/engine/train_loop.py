"""The training loop with hooks."""

from __future__ import annotations

import logging
import weakref
from typing import Any

from ..utils.events import EventStorage

__all__ = ["HookBase", "TrainerBase"]

logger = logging.getLogger(__name__)


class HookBase:
    """What a trainer calls around its steps: before_train, (before_step, step, after_step)..., after_train."""

    trainer: TrainerBase = None

    def before_train(self) -> None:
        pass

    def after_train(self) -> None:
        """Also when training failed."""

    def before_step(self) -> None:
        pass

    def after_step(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}


class TrainerBase:
    """A loop from start_iter to max_iter that calls hooks; subclasses implement `run_step`."""

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        for hook in hooks:
            if hook is not None:
                hook.trainer = weakref.proxy(self)  # the trainer owns its hooks, not the reverse
                self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self._call_hooks("before_train")
                while self.iter < max_iter:
                    self._call_hooks("before_step")
                    self.run_step()
                    self._call_hooks("after_step")
                    self.iter += 1
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self._call_hooks("after_train")

    def _call_hooks(self, moment: str) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            getattr(hook, moment)()

    def run_step(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The iteration, and the state of hooks that have one, by class name."""
        state: dict[str, Any] = {"iteration": self.iter}
        hooks: dict[str, dict] = {}
        for hook in self._hooks:
            if part := hook.state_dict():
                hooks.setdefault(type(hook).__qualname__, part)
        return {**state, "hooks": hooks} if hooks else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the state of a hook that is not registered is dropped with a warning."""
        self.iter = state_dict["iteration"]
        by_name = {type(hook).__qualname__: hook for hook in reversed(self._hooks)}
        for name, part in state_dict.get("hooks", {}).items():
            if name in by_name:
                by_name[name].load_state_dict(part)
            else:
                logger.warning("no hook %s is registered, its state is ignored", name)
