"""Weights that all processes of a run start from, and gradients averaged over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from detectron2.utils import comm
from torch import Tensor, nn

ALIGNMENT = 32  # elements; kernels read and write several at once where their place is a multiple


def share_weights(model: nn.Module) -> None:
    """Give all processes the first one's parameters and buffers.

    Raises:
        ValueError: in every process, if the models differ in names, shapes, strides or dtypes.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    own = [f"{name} {x.dtype} {tuple(x.shape)} with strides {x.stride()}" for name, x in tensors]
    first, *others = comm.all_gather(own)
    for rank, other in enumerate(others, 1):
        if other != first:
            lacks, has = (
                next((x for x in a if x not in b), "nothing else") for a, b in ((first, other), (other, first))
            )
            raise ValueError(f"the model of process {rank} has {has}, that of process 0 has {lacks}")
    with torch.no_grad():
        for _, x in tensors:
            sent = x.detach().contiguous()
            torch.distributed.broadcast(sent, 0)
            x.copy_(sent)


class GradientAverage:
    """Averages the gradients of a model over the processes of a run, at once, after the backward pass.

    All gradients are copied into one buffer, of which `.grad` are views until they are set to None. Nothing is hooked
    into the backward pass, as DistributedDataParallel does: the exchange takes less than a hundredth of a step, and a
    part that is replayed as a CUDA graph has all of its gradients at the same moment.

    Args:
        model: whose processes start from the first one's weights, see `share_weights`.
    """

    def __init__(self, model: nn.Module):
        share_weights(model)
        self._groups: dict[torch.dtype, list[tuple[str, nn.Parameter]]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._groups[parameter.dtype].append((name, parameter))
        self._buffers: dict[torch.dtype, tuple[Tensor, list[Tensor]]] = {}

    @torch.no_grad()
    def __call__(self) -> None:
        """Replace every gradient by its mean over the processes.

        Raises:
            RuntimeError: if a trained parameter has no gradient: another process may have one, and wait.
        """
        for dtype, named in self._groups.items():
            gradients = [parameter.grad for _, parameter in named]
            present = [x for x in gradients if x is not None]
            if len(present) < len(named):
                missing = [name for (name, _), x in zip(named, gradients, strict=True) if x is None]
                raise RuntimeError(f"no gradient reached {', '.join(missing[:5])}, {len(missing)} parameters in all")
            if dtype not in self._buffers:
                self._buffers[dtype] = _lay_out(present)
            buffer, views = self._buffers[dtype]
            torch._foreach_copy_(views, present)
            buffer /= torch.distributed.get_world_size()
            torch.distributed.all_reduce(buffer)
            for (_, parameter), view in zip(named, views, strict=True):
                parameter.grad = view


def _lay_out(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """A buffer, and views of it with the shapes and strides of tensors of one dtype.

    Autograd lays gradients out as their parameters, whose strides are the same in all processes; axes of size 1 apart,
    whose strides say nothing, and which are those of the gradients here, since equal strides are copied together.
    """
    starts, end = [], 0
    for x in tensors:
        starts.append(end)
        end += -(-x.numel() // ALIGNMENT) * ALIGNMENT
    buffer = tensors[0].new_zeros(end)
    return buffer, [buffer.as_strided(x.shape, x.stride(), at) for x, at in zip(tensors, starts, strict=True)]
