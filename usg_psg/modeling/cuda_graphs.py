"""Functions as CUDA graphs: recorded once for each shape of their arguments, then replayed at no cost to the host.

A training step of thousands of small kernels is bound by the host that launches them; a graph is launched as one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import sdpa_kernel
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .layers import USUAL_ATTENTION, MultiheadAttention

logger = logging.getLogger(__name__)

OF_PRODUCTS = (nn.Linear, nn.Conv2d, MultiheadAttention)  # exactly: derived ones may do other things with their weights
WEIGHTS = ("weight", "bias", "in_proj_weight", "in_proj_bias")  # not what `weight_norm` makes them of
WARMUP = 3  # runs before recording, in which libraries choose their kernels (ours in the third) and make workspaces


class CudaRecorder:
    """Records what functions do on the device, in one memory pool, and replays it."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """Run the same work as usual, on the stream that will be recorded."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.random.fork_rng([torch.cuda.current_device()]), torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """What the function returned, in memory that each call of the second value fills anew."""
        graph = torch.cuda.CUDAGraph()
        # The loader's threads pin memory meanwhile, which the default mode would take for a part of the recording.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            result = function()
        return result, graph.replay


class _Recording:
    """Forward and backward pass of a function for arguments of one shape.

    Args:
        function: of the flat arguments, returns tensors.
        arguments: what it is recorded with; tensors are copied, but for those in memory that is `fixed`.
        module: whose parameters take part, besides the arguments.
        fixed: addresses of storages that recordings write to, extended by this one's.
        recorder: see `CudaRecorder`.
    """

    def __init__(
        self,
        function: Callable[[list], Sequence[Tensor]],
        arguments: list,
        module: nn.Module,
        fixed: set[int],
        recorder: Any,
    ):
        self.arguments = [_at_rest(x, fixed) if isinstance(x, Tensor) else x for x in arguments]
        self.tensors = [x for x in self.arguments if isinstance(x, Tensor)]
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        with _stand_ins(module) as stand_ins:
            self.cast = cast = {p: x for p, x in stand_ins.items() if x.dtype != p.dtype}  # the graphs use their memory

            def of_present_weights(arguments: list) -> Sequence[Tensor]:
                if cast:
                    with torch.no_grad():
                        torch._foreach_copy_(list(cast.values()), list(cast))
                return function(arguments)

            inputs = [*self.tensors, *(stand_ins[p] for p in self.parameters)]
            # `attend` leaves cuDNN out where sizes change. Here, what it plans is used again and again.
            with nullcontext() if torch.is_grad_enabled() else sdpa_kernel(USUAL_ATTENTION):
                self._record(of_present_weights, inputs, [*self.tensors, *self.parameters], recorder)
        self.passes = 0  # each pass writes over what the one before has left
        fixed.update(x.untyped_storage().data_ptr() for x in self.outputs)

    def _record(
        self, function: Callable[[list], Sequence[Tensor]], inputs: list[Tensor], givers: list[Tensor], recorder: Any
    ) -> None:
        """Inputs are the leaves of the recorded passes; givers, whose values they have, may be of other types."""
        wanted = [x for x in inputs if x.requires_grad] if torch.is_grad_enabled() else []
        types = [giver.dtype for x, giver in zip(inputs, givers, strict=True) if x.requires_grad]

        def gradients(outputs: Sequence[Tensor], grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
            roots, given = [x for x in outputs if x.requires_grad], [x for x in grads if x is not None]
            if not roots:
                return [None] * len(wanted)
            return _of_types(torch.autograd.grad(roots, wanted, given, allow_unused=True), types)

        def zeros(outputs: Sequence[Tensor]) -> list[Tensor | None]:
            return [torch.zeros_like(x) if x.requires_grad else None for x in outputs]

        with recorder.warming_up():
            for _ in range(WARMUP):
                outputs = function(self.arguments)
                gradients(outputs, zeros(outputs))
            del outputs
        outputs, self.replay_forward = recorder.record(lambda: function(self.arguments))
        self.grad_outputs = zeros(outputs)
        self.has_gradient = any(x is not None for x in self.grad_outputs)
        if self.has_gradient:
            found, self.replay_backward = recorder.record(lambda: gradients(outputs, self.grad_outputs))
            results = iter(found)
            self.grad_inputs = [next(results) if x.requires_grad else None for x in inputs]
        self.outputs = [x.detach() for x in outputs]  # without the passes' nodes, whose memory is the graphs' own now

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Outputs for these arguments, in memory that the next call overwrites."""
        for own, given in zip(self.tensors, tensors, strict=True):
            if own.data_ptr() != given.data_ptr():
                own.detach().copy_(given)
        self.replay_forward()
        self.passes += 1
        return tuple(x.detach() for x in self.outputs)

    def backward(self, grads: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments and parameters, in memory that the next call overwrites."""
        for own, given in zip(self.grad_outputs, grads, strict=True):
            if own is None:
                continue
            if given is None:
                own.zero_()
            else:
                own.copy_(given)
        self.replay_backward()
        self.passes += 1
        return tuple(None if x is None else x.detach() for x in self.grad_inputs)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, recording: _Recording, *inputs: Tensor):
        ctx.recording = recording
        outputs = recording.forward(inputs[: len(recording.tensors)])
        ctx.passes = recording.passes
        constant = [x for x, grad in zip(outputs, recording.grad_outputs, strict=True) if grad is None]
        ctx.mark_non_differentiable(*constant)
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None):
        if ctx.recording.passes != ctx.passes:
            raise RuntimeError("what runs as a CUDA graph has one backward pass, before the next call for its shape")
        return None, *ctx.recording.backward(grads)


class GraphedFunction:
    """A function that is recorded at its first call for each shape of arguments, and replayed from then on.

    The function may do nothing that waits for the device, and its result must depend on nothing but the arguments, the
    parameters and PyTorch's random numbers. Results and gradients lie in memory that the next call for the same shape
    overwrites: gradients cannot be accumulated over several calls, and a call has one backward pass, before the next.

    Args:
        function: of tensors, other constants, and lists, dicts and structures (`usg_psg.structures`) of them.
        module: whose parameters it uses besides; they may change in place, not move. Under autocast it finds those of
            `OF_PRODUCTS` that are trained in autocast's type.
        fixed: shared by functions whose results are each other's arguments, which then are not copied.
        recorder_type: `CudaRecorder`, or what stands in for it.

    Raises:
        RuntimeError: at a call, if the function cannot be recorded; at a backward pass that comes too late.
        torch.cuda.OutOfMemoryError: at a call, if there is not the memory to record.
    """

    MAX_SHAPES = 8  # each takes the memory of all that the function computes; further ones run unrecorded

    def __init__(
        self,
        function: Callable[..., Any],
        module: nn.Module,
        fixed: set[int] | None = None,
        recorder_type: Callable[[], Any] = CudaRecorder,
    ):
        self.function = function
        self.module = module
        self.fixed = set() if fixed is None else fixed
        self.recorder_type = recorder_type
        self._recordings: dict[tuple, tuple[_Recording, TreeSpec]] = {}
        self._said_full = False

    def __call__(self, *args: Any) -> Any:
        """Replay the graph of arguments like these, recording it at first."""
        leaves, structure = tree_flatten(args)
        key = (str(structure), torch.is_grad_enabled(), *_arithmetic(), *map(self._key, leaves))
        if key not in self._recordings:
            if len(self._recordings) >= self.MAX_SHAPES:
                if not self._said_full:
                    logger.info("more than %d shapes of inputs: further ones run without CUDA graphs", self.MAX_SHAPES)
                self._said_full = True
                return self.function(*args)
            self._recordings[key] = self._record(leaves, structure)
        recording, output_structure = self._recordings[key]
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        if recording.has_gradient:
            outputs = _Replay.apply(recording, *tensors, *recording.parameters)
        else:
            outputs = recording.forward(tensors)
        return tree_unflatten(list(outputs), output_structure)

    def _key(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        # What lies in another recording's memory is read there, so it has to be the same place.
        place = leaf.data_ptr() if leaf.untyped_storage().data_ptr() in self.fixed else None
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.requires_grad, place

    def _record(self, leaves: list, structure: TreeSpec) -> tuple[_Recording, TreeSpec]:
        output_structure: TreeSpec | None = None

        def flat(arguments: list) -> list[Tensor]:
            nonlocal output_structure
            outputs, output_structure = tree_flatten(self.function(*tree_unflatten(arguments, structure)))
            return outputs

        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # weights are cast within the recording, since they change
        try:
            recording = _Recording(flat, leaves, self.module, self.fixed, self.recorder_type())
        except torch.cuda.OutOfMemoryError:
            raise  # a RuntimeError too, but callers answer it in another way
        except RuntimeError as error:
            name = getattr(self.function, "__qualname__", repr(self.function))
            raise RuntimeError(
                f"{name} cannot be recorded as a CUDA graph (COMPILE 'none' or 'kernels' does without): {error}"
            ) from error
        finally:
            torch.set_autocast_cache_enabled(cached)
        assert output_structure is not None
        return recording, output_structure


@contextmanager
def _stand_ins(module: nn.Module) -> Iterator[dict[nn.Parameter, nn.Parameter]]:
    """Inside, the module has other parameters; gives them by parameter.

    Gradients gather at a parameter on the stream where it was first used, which is not the one that is recorded. They
    lie in the same memory, but for trained ones that autocast would cast for each product: of these, copies in its type
    take the place, so that all are cast together. A weight's gradients of several products are then added in that type,
    as with autocast's own cache.
    """
    places = [(m, name, p) for m in module.modules() for name, p in m._parameters.items() if p is not None]
    elsewhere = {p for m, name, p in places if type(m) not in OF_PRODUCTS or name not in WEIGHTS}  # tied ones, too

    def stand_in(p: nn.Parameter) -> nn.Parameter:
        kind = p.device.type
        of_products = p not in elsewhere and p.requires_grad and p.dtype == torch.float32
        casts = of_products and torch.is_autocast_enabled(kind)
        value = p.detach().to(torch.get_autocast_dtype(kind)) if casts else p.detach()
        return nn.Parameter(value, requires_grad=p.requires_grad)

    others = {p: stand_in(p) for _, _, p in places}
    try:
        for m, name, p in places:
            m._parameters[name] = others[p]
        yield others
    finally:
        for m, name, p in places:
            m._parameters[name] = p


def _of_types(gradients: Sequence[Tensor | None], types: Sequence[torch.dtype]) -> list[Tensor | None]:
    """Gradients in the types of what they are for, those of other types cast together."""
    results, cast, given = list(gradients), [], []
    for i, (x, dtype) in enumerate(zip(gradients, types, strict=True)):
        if x is not None and x.dtype != dtype:
            results[i] = wide = torch.empty_like(x, dtype=dtype)
            cast.append(wide)
            given.append(x)
    if cast:
        torch._foreach_copy_(cast, given)
    return results


def _at_rest(tensor: Tensor, fixed: set[int]) -> Tensor:
    """A leaf with the values of an argument, in memory that stays."""
    stays = tensor.untyped_storage().data_ptr() in fixed
    return (tensor.detach() if stays else tensor.detach().clone()).requires_grad_(tensor.requires_grad)


def _arithmetic() -> tuple:
    """What of autocast a recording depends on, on either device."""
    return tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda"))
