"""Shared by the benchmark programs: times by part, a vocabulary of PSG's size."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import starmap

import torch
import torch.nn.functional as F
from torch import nn

from usg_psg.data import PSG_VOCABULARY
from usg_psg.structures import TextEmbeddings


class PartTimer:
    """Time spent in calls, by name, on the device's own clock where there is one."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.spans: dict[str, list] = defaultdict(list)

    def now(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start, end) -> float:
        """Milliseconds from one `now` to another."""
        if not self.cuda:
            return 1000 * (end - start)
        end.synchronize()
        return start.elapsed_time(end)

    def wrap(self, owner: object, attribute: str, name: str | Callable[..., str]) -> None:
        """Time every call of owner.attribute under a name, or under what a function makes of the arguments."""
        call: Callable = getattr(owner, attribute)

        def timed(*args, **kwargs):
            start = self.now()
            result = call(*args, **kwargs)
            self.spans[name if isinstance(name, str) else name(*args)].append((start, self.now()))
            return result

        setattr(owner, attribute, timed)

    def wrap_network(self, model: nn.Module) -> None:
        """Time the parts of a USGPar's network."""
        names = ("backbone", "pixel_decoder", "mask_decoder", "class_head", "rpc", "relation_decoder")
        for (owner, method), name in zip(model.parts(), names, strict=True):
            self.wrap(owner, method, name)

    def milliseconds(self) -> dict[str, float]:
        """Median per call."""
        return {name: statistics.median(starmap(self.between, spans)) for name, spans in self.spans.items()}


def use_psg_sized_vocabulary(model: nn.Module) -> None:
    """133 object and 56 predicate names with random embeddings; the scenes' own ids are among them."""
    width = model.object_text.shape[1]
    objects = F.normalize(torch.randn(len(PSG_VOCABULARY.object_classes), width), dim=1)
    predicates = F.normalize(torch.randn(len(PSG_VOCABULARY.predicate_classes), width), dim=1)
    model.set_vocabulary(TextEmbeddings(objects, predicates, PSG_VOCABULARY.is_thing))
