"""One timer, memory of processes, names and scenes to measure with."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import starmap
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from ...data import PSG_VOCABULARY
from ...data.psg_shapes import generate_psg_shapes
from ...data.psg_shapes.generate import MIN_PSG_SIDE
from ...structures import TextEmbeddings

PROFILE_ROWS = 60


class Timer:
    """Time spent in calls, by name: on a GPU between CUDA events, else on the wall clock."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.cuda = torch.device(device).type == "cuda"
        self.spans: dict[str, list] = defaultdict(list)

    def now(self) -> Any:
        """A point in time, for `between`."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Milliseconds from one `now` to another."""
        if not self.cuda:
            return 1000 * (end - start)
        end.synchronize()
        return start.elapsed_time(end)

    def call(self, name: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """Call and time a function; returns its result."""
        start = self.now()
        result = function(*args, **kwargs)
        self.spans[name].append((start, self.now()))
        return result

    def wrap(self, owner: object, attribute: str, name: str) -> None:
        """Time every call of owner.attribute from now on."""
        function = getattr(owner, attribute)
        setattr(owner, attribute, lambda *args, **kwargs: self.call(name, function, *args, **kwargs))

    def wrap_parts(self, model: Any) -> None:
        """Time the parts of a USGPar's network."""
        names = {"propose": "rpc", "decode": "relation_decoder", "forward_given": "mask_decoder, given queries"}
        modules = {module: name for name, module in model.named_children()}
        for owner, method in model.parts():
            self.wrap(owner, method, names.get(method, modules[owner]))

    def each(self, name: str) -> list[float]:
        """Milliseconds of every call."""
        return list(starmap(self.between, self.spans[name]))

    def medians(self) -> dict[str, float]:
        """Milliseconds of a call, by name."""
        return {name: statistics.median(self.each(name)) for name in self.spans}


def median_times(functions: Mapping[str, Callable[[], object]], device: str, repeats: int) -> dict[str, float]:
    """Median milliseconds of each function; they take turns, so that a busy moment hits all alike."""
    timer, warmup = Timer(device), 3
    for turn in range(warmup + repeats):
        if turn == warmup:
            timer.spans.clear()
        for name, function in functions.items():
            if timer.cuda:
                torch.cuda._sleep(1_000_000)  # fills the queue, which keeps the host's own time out
            timer.call(name, function)
    return timer.medians()


def profile_steps(steps: Callable[[int], object], count: int, on_gpu: bool) -> str:
    """Time of a step by kernel, and by operator of PyTorch, of which those called from others count for themselves."""
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=kinds) as profiler:
        steps(count)
    lines = []
    for title, is_kernel in (("kernels", True), ("operators", False)):
        key = "self_device_time_total" if is_kernel else "self_cpu_time_total"
        events = [e for e in profiler.key_averages() if (e.device_type != DeviceType.CPU) == is_kernel]
        total = sum(getattr(e, key) for e in events) / 1000 / count
        calls = sum(e.count for e in events) / count
        lines.append(f"{title}: {total:.1f} ms and {calls:.0f} calls a step")
        for e in sorted(events, key=lambda e: -getattr(e, key))[:PROFILE_ROWS]:
            lines.append(f"{getattr(e, key) / 1000 / count:9.3f} ms {e.count / count:7.1f} x  {e.key[:160]}")
    return "\n".join(lines) + "\n"


def device_name(device: torch.device | str) -> str:
    """What runs, and under which PyTorch."""
    name = torch.cuda.get_device_name() if torch.device(device).type == "cuda" else "CPU"
    return f"{name}, torch {torch.__version__}"


def own_memory(pid: int | str = "self") -> float | None:
    """MiB of memory that a process holds besides mapped files; None if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")]
    return found[0] if found else None


def use_psg_sized_vocabulary(model: Any) -> None:
    """133 object and 56 predicate names with random embeddings; the scenes' own ids are among them."""
    names, width = PSG_VOCABULARY, model.object_text.shape[1]
    objects, predicates = (
        F.normalize(torch.randn(len(each), width), dim=1) for each in (names.object_classes, names.predicate_classes)
    )
    model.set_vocabulary(TextEmbeddings(objects, predicates, names.is_thing))


def use_scenes(folder: str | None, size: int, count: int) -> None:
    """Let DETECTRON2_DATASETS be a folder with generated scenes like PSG, drawn if they are not there yet.

    Their longer side has `size` pixels, or as many as the preset needs.
    """
    root = Path(folder or tempfile.mkdtemp(prefix="usg_psg_scenes_"))
    if not (root / "psg_shapes" / "psg" / "psg.json").exists():
        side, workers = max(size, MIN_PSG_SIDE), min(os.cpu_count() or 1, 16)
        generate_psg_shapes(
            root / "psg_shapes", count, 1, (side, side), preset="psg", num_workers=workers, overwrite=True
        )
    os.environ["DETECTRON2_DATASETS"] = str(root)
