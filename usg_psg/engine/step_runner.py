"""One step of training: data, forward passes, backward passes, update and log."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..data.train_loader import PSGTrainLoader, derived_seed
from ..losses import loss_normalizers
from ..utils.garbage import collector_paused
from ..utils.program import FAILED
from .averaging import GradientAverage
from .ema import ModelEMA
from .optimizer import GradientClipper

logger = logging.getLogger(__name__)

STEP_STREAM = 17  # sets a step's random numbers apart from those of the data
# Copied with the losses from device to host, once per step and for all processes together.
EXTRA = ("data_time", "stop", "skipped_steps", "skipped_in_a_row", "grad_norm")


@dataclass
class NonFiniteReport:
    """A loss that is not finite, and the images that gave it."""

    iteration: int  # its update was not made
    losses: list[dict[str, float]]  # by name, of each process that had one that is not finite
    images: list[str]  # file names of the step's images in those processes

    def __str__(self) -> str:
        bad = {name: value for losses in self.losses for name, value in losses.items() if not abs(value) < float("inf")}
        terms = ", ".join(f"{name} {value}" for name, value in bad.items())
        return f"the loss is not finite at iteration {self.iteration}: {terms}; images: {', '.join(self.images)}"


class StepRunner:
    """Runs optimizer steps; the same on one process and on several, on the CPU and on GPUs.

    The random numbers of a step depend on the seed, the iteration and the process alone, so a run that goes on from a
    checkpoint draws the same ones. The loss terms go to the host while the backward pass runs: looking at them costs no
    waiting, and a loss that is not finite is found before it reaches a weight. Several processes start from the first
    one's weights; in a step, the device of each waits for the others where it averages the gradients.

    Args:
        model: USGPar.
        data_loader: of this process.
        optimizer: of the trained parameters.
        clipper: clips and measures gradients.
        accumulation_steps: forward passes per update; the gradients are those of all their images together.
        autocast_dtype: of mixed precision on a GPU; None for float32. float16 scales the loss.
        ema: updated after each step, or None.
        on_nonfinite: called on every process with the report (None but on the main process) before the error is raised.

    Attributes:
        looks_ahead: the model reads the next batch while it works on this one, see `USGPar.forward`.
        iter: set by the trainer before each step.
        stop_request: set from outside to end the run with this exit status; `stop_status` is the highest that any
            process asked for, in all of them at once, in the step after.
        failure: why this process asked to stop, if it was not from outside.
    """

    SKIP_LIMIT = 100  # steps in a row without a usable gradient, after which training stops
    # After these steps, objects that live as long as the run (PyTorch's compiler among them) are taken out of Python's
    # garbage collection: scanning them made some steps three times as long, and all processes wait for the slowest.
    SETTLED_AFTER = 10

    def __init__(
        self,
        model: nn.Module,
        data_loader: PSGTrainLoader,
        optimizer: torch.optim.Optimizer,
        *,
        clipper: GradientClipper,
        accumulation_steps: int = 1,
        autocast_dtype: torch.dtype | None = None,
        ema: ModelEMA | None = None,
        on_nonfinite: Callable[[NonFiniteReport | None], None] | None = None,
    ):
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.clipper = clipper
        self.accumulation_steps = accumulation_steps
        self.autocast_dtype = autocast_dtype
        self.ema = ema
        self.on_nonfinite = on_nonfinite
        self.iter = 0
        self.stop_request = 0
        self.stop_status = 0
        self.failure: ChildProcessError | None = None
        self.samples_seen = 0
        self._steps = 0
        self.device = next(model.parameters()).device
        self.average_gradients = GradientAverage(model) if comm.get_world_size() > 1 else None
        self.grad_scaler = torch.amp.GradScaler("cuda", enabled=autocast_dtype == torch.float16)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # On the device, so that counting them needs no synchronisation: skipped_steps, skipped_in_a_row, grad_norm.
        self._counters = torch.zeros(3, device=self.device)
        self._batches: Iterator[list[dict]] | None = None
        self._read_ahead: list[list[dict]] = []
        self._lost: ChildProcessError | None = None
        self._waited = 0.0  # seconds for data since the last report
        # On a CPU there is no idle device to use.
        self.looks_ahead = self.device.type == "cuda" and bool(getattr(model, "has_frozen_backbone", False))

    def run_step(self) -> None:
        """One update."""
        batches = self._next_batches()  # at first starts processes, which do as this one does about garbage
        # The first, which compiles and records, would be searched for garbage again and again.
        with nullcontext() if self._steps else collector_paused():
            self._step(batches)
        self._steps += 1
        if self._steps == self.SETTLED_AFTER:
            gc.collect()
            gc.freeze()

    def _step(self, batches: list[list[dict]]) -> None:
        torch.manual_seed(derived_seed(self.data_loader.seed, STEP_STREAM, self.iter, comm.get_rank()))

        normalizers = loss_normalizers(batches, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        names: tuple[str, ...] = ()
        terms: Tensor | float = 0.0
        for number, batch in enumerate(batches):
            ahead = {"upcoming": partial(self._upcoming, batches[number + 1 :])} if self.looks_ahead else {}
            with self._autocast():
                losses: Mapping[str, Tensor] = self.model(batch, normalizers, **ahead)
            stacked = torch.stack([loss.float() for loss in losses.values()])
            names, terms = tuple(losses), terms + stacked.detach()
            if number + 1 == len(batches):
                to_host = self._gather(terms)
            self.backward(stacked.sum())
        self.exchange()
        values = to_host.get()
        self._check_finite(names, values, batches)
        self._check_gradients(values)
        self.update()
        self.samples_seen += sum(map(len, batches)) * comm.get_world_size()
        self._write(names, values)

    def _next_batches(self) -> list[list[dict]]:
        """The batches of a step, of which the first may have been read ahead.

        If a loader process dies, a single new one gives them, and the run ends after them: the other processes of the
        run need this step to learn that all of them stop.
        """
        try:
            if self._lost is not None:
                raise self._lost
            while len(self._read_ahead) < self.accumulation_steps:
                self._read_ahead.append(self._read())
        except ChildProcessError as error:
            self.failure, self.stop_request, self._lost = error, FAILED, None
            self.data_loader.start_at(self.samples_seen)
            self._batches = self.data_loader.batches(num_workers=1)
            self._read_ahead = [self._read() for _ in range(self.accumulation_steps)]
        batches, self._read_ahead = self._read_ahead, []
        return batches

    def _upcoming(self, rest: list[list[dict]]) -> list[dict] | None:
        """The next batch, this step's or the next one's; None if a loader process died, see `_next_batches`."""
        if rest:
            return rest[0]
        try:
            self._read_ahead.append(self._read())
        except ChildProcessError as error:
            self._lost = error
            return None
        return self._read_ahead[0]

    def _read(self) -> list[dict]:
        started = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        batch = next(self._batches)
        self._waited += time.perf_counter() - started
        return batch

    def close(self) -> None:
        """End the loader's processes, which otherwise end with the program, complaining that it has gone."""
        self._batches, self._read_ahead = None, []
        gc.unfreeze()

    def _autocast(self) -> AbstractContextManager:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast("cuda", dtype=self.autocast_dtype)

    def _gather(self, terms: Tensor) -> _HostCopy:
        """(W, losses + EXTRA) float32 of all W processes."""
        extra = torch.tensor([self._waited, float(self.stop_request)]).to(terms.device, non_blocking=True)
        self._waited = 0.0
        own = torch.cat([terms, extra, self._counters])
        if self.average_gradients is None:
            return _HostCopy(own[None])
        everyone = own.new_empty((torch.distributed.get_world_size(), len(own)))
        return _HostCopy(everyone, torch.distributed.all_gather(list(everyone), own, async_op=True), own)

    def _check_finite(self, names: tuple[str, ...], values: Tensor, batches: list[list[dict]]) -> None:
        bad = ~values[:, : len(names)].isfinite().all(dim=1)
        if not bad.any():
            return
        rank = comm.get_rank()
        own = None
        if bad[rank]:
            images = [str(x.get("file_name", x.get("image_id", "?"))) for batch in batches for x in batch]
            own = (dict(zip(names, values[rank].tolist(), strict=False)), images)
        found = [part for part in comm.all_gather(own) if part is not None]
        report = NonFiniteReport(self.iter, [part[0] for part in found], [name for part in found for name in part[1]])
        if self.on_nonfinite is not None:
            self.on_nonfinite(report if comm.is_main_process() else None)
        comm.synchronize()  # the first process to fail ends the others, which may still be writing
        raise FloatingPointError(str(report))

    def _check_gradients(self, values: Tensor) -> None:
        """FloatingPointError in the last of SKIP_LIMIT steps in a row whose updates are left out.

        values: (W, losses + EXTRA), see `_gather`, of the steps before this one; gradients are not clipped yet.
        """
        skipped = values[:, EXTRA.index("skipped_in_a_row") - len(EXTRA)].max()
        if skipped + 1 < self.SKIP_LIMIT:
            return
        given = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        bad = [name for name, grad in given.items() if not grad.isfinite().all()]
        if not bad:
            kind = self.clipper.norm_type
            if torch.stack([grad.norm(kind) for grad in given.values()]).norm(kind).isfinite():
                return
        first = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
        which = f"of {len(bad)} of {len(given)} parameters, {first}" if bad else "by their norm alone"
        raise FloatingPointError(
            f"{self.SKIP_LIMIT} steps in a row, up to iteration {self.iter}, had gradients that are not finite: {which}"
        )

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss."""
        self.grad_scaler.scale(loss).backward()

    def exchange(self) -> None:
        """Average the gradients over processes, if there are several."""
        if self.average_gradients is not None:
            self.average_gradients()

    def update(self) -> None:
        """Clip, update weights unless a gradient is not finite, update the moving average."""
        self.grad_scaler.unscale_(self.optimizer)
        norm = self.clipper(self.parameters).detach().float()
        unusable = (~norm.isfinite()).float()
        if self.grad_scaler.is_enabled():
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        elif self.optimizer.defaults.get("fused"):
            # The protocol of torch.amp.GradScaler: the kernel itself leaves out the update, nobody waits for the norm.
            optimizer: Any = self.optimizer
            optimizer.grad_scale, optimizer.found_inf = None, unusable
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf
        elif not unusable:
            self.optimizer.step()
        skipped, in_a_row = self._counters[0] + unusable, (self._counters[1] + 1) * unusable
        self._counters = torch.stack([skipped, in_a_row, norm])
        if self.ema is not None:
            self.ema.update(self.iter)

    def _write(self, names: tuple[str, ...], values: Tensor) -> None:
        """Losses averaged over processes, the longest wait for data; counters and norm are those before this step."""
        extra = dict(zip(EXTRA, values[:, len(names) :].amax(dim=0).tolist(), strict=True))
        self.stop_status = int(extra["stop"])
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        means = values[:, : len(names)].mean(dim=0).tolist()
        storage.put_scalars(total_loss=sum(means), **dict(zip(names, means, strict=True)))
        storage.put_scalar("data_time", extra["data_time"])
        storage.put_scalar("skipped_steps", extra["skipped_steps"], smoothing_hint=False)
        if self.samples_seen and extra["grad_norm"] > 0:
            storage.put_scalar("grad_norm", extra["grad_norm"])
        if self.grad_scaler.is_enabled():
            storage.put_scalar("grad_scale", self.grad_scaler.get_scale(), smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, loss scale, place in the data, counters; tensors and plain values."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "grad_scaler": self.grad_scaler.state_dict(),
            "seed": self.data_loader.seed,
            "samples_seen": self.samples_seen,
            "counters": self._counters.cpu(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the next batch is the one that would have come next."""
        missing = {"optimizer", "grad_scaler", "seed", "samples_seen", "counters"} - set(state_dict)
        if missing:
            raise ValueError(f"the checkpoint cannot be resumed, its trainer state lacks {', '.join(sorted(missing))}")
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if self.grad_scaler.is_enabled() and state_dict["grad_scaler"]:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        if state_dict["seed"] != self.data_loader.seed:
            logger.info("going on with the seed of the checkpoint, %d", state_dict["seed"])
        self.samples_seen = state_dict["samples_seen"]
        self._counters = state_dict["counters"].to(self.device)
        self.data_loader.start_at(self.samples_seen, state_dict["seed"])


class _HostCopy:
    """A tensor on its way to the host.

    Args:
        tensor: on any device.
        work: the exchange between processes that fills it, if there is one; the device goes on with other work.
        own: what this process gives to the exchange.
    """

    def __init__(self, tensor: Tensor, work: torch.distributed.Work | None = None, own: Tensor | None = None):
        self.event = None
        self.tensor = tensor.detach()
        self.work = work
        self.kept = tensor, own  # the memory is in use on other streams than that which could give it to others
        if tensor.is_cuda:
            self.tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self.event = torch.cuda.Event()
            # After an exchange on a stream of its own: the present one would wait for the slowest process.
            with nullcontext() if work is None else torch.cuda.stream(_copies()):
                if work is not None:
                    work.wait()
                self.tensor.copy_(tensor, non_blocking=True)
                self.event.record()

    def get(self) -> Tensor:
        """Wait for the copy, not for later work of the device."""
        if self.event is not None:
            self.event.synchronize()
        elif self.work is not None:
            self.work.wait()
        return self.tensor


@cache
def _copies() -> torch.cuda.Stream:
    """The stream of copies to the host."""
    return torch.cuda.Stream()
