"""How the network's parts run: as they are, compiled, as CUDA graphs, in 16 bits. Put on a model from outside."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import MethodType
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from torch import nn

from ..utils.allowed import one_of
from ..utils.autocast import DTYPES
from ..utils.files import cache_folder
from .build import Region
from .cuda_graphs import CudaRecorder, GraphedFunction

logger = logging.getLogger(__name__)

MODES = one_of("none", "kernels", "graphs", "kernels+graphs")
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
PYTORCHS_CHOICE = str(Path(tempfile.gettempdir()) / "torchinductor_")  # and the user's name
CACHE_RESULTS = ("hit", "miss", "bypass")  # of torch.compile's counters
SHORT_INTERVAL = 2e-4  # seconds


def missing_for_kernels() -> str:
    """What torch.compile's kernels for a GPU need and this machine lacks; empty if nothing."""
    if importlib.util.find_spec("triton") is None:
        return "Triton"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "C compiler (Triton takes gcc, clang or CC)"
    if not (header := Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return f"{header} (Triton's launchers need it)"
    return ""


@contextmanager
def importing_compiler(mode: str) -> Iterator[None]:
    """Import what "kernels" needs in a thread while a model is built inside, most of which leaves Python's lock to it.

    A thread that wants the lock back waits until the other one has had it for the switch interval, by default 5 ms. An
    import lets go of it for each file that it looks at, so timm's, which the model needs at once, comes before.
    """
    if "kernels" not in mode:
        yield
        return
    _choose_folder()  # PyTorch 2.4 and processes that compile look at it when they start
    importlib.import_module("timm")
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    thread = threading.Thread(target=_import_compiler, args=(device,), daemon=True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SHORT_INTERVAL)
    thread.start()
    try:
        yield
    finally:
        thread.join()  # processes that are forked while modules are imported could wait for them for ever
        sys.setswitchinterval(interval)


def _import_compiler(device: int | None) -> None:
    with suppress(Exception):  # whoever needs it will hear of it
        if device is not None:
            torch.cuda.set_device(device)  # each thread has its own; its name is part of a checksum
        importlib.import_module("torch._inductor.compile_fx")
        # Checksums of PyTorch and Triton, under which kernels are kept.
        cache = importlib.import_module("torch._inductor.codecache")
        cache.torch_key()
        cache.CacheBase.get_system()


def run_as_configured(model: Any, cfg: CfgNode) -> Any:
    """The same model, whose parts run as MODEL.USG.COMPILE, TEST.USG.COMPILE and TEST.USG.DTYPE say."""
    compile_parts(model, cfg.MODEL.USG.COMPILE, cfg.TEST.USG.COMPILE)
    infer_in(model, cfg.TEST.USG.DTYPE)
    return model


def compile_parts(
    model: Any,
    mode: str = "none",
    inference_mode: str = "none",
    recorder_type: Callable[[], Any] = CudaRecorder,
) -> None:
    """Let a model's parts run in other ways from now on; they compute the same.

    Args:
        model: its `parts()` name the methods, which take and return tensors and structures of them; its `formulas()`
            those of the losses, which "kernels" compiles for any number of objects; its `recordable()` those behind the
            network, which "graphs" records outside of training, and "kernels" leaves alone: their sizes are those of
            photographs, so many that compiling would not end.
        mode: in training: "none"; "kernels", through `torch.compile`; "graphs", as CUDA graphs of PyTorch's own
            kernels; or "kernels+graphs". With graphs, results lie in memory that the part's next call overwrites.
        inference_mode: outside of training, where "kernels" and "graphs" prepare for each size of images.
        recorder_type: see `GraphedFunction`.

    Raises:
        ValueError: for another mode.
    """
    MODES.check("mode", mode)
    MODES.check("inference_mode", inference_mode)
    modes = {True: mode, False: inference_mode}
    fixed: dict[bool, set[int]] = {True: set(), False: set()}  # graphs that read each other's results copy nothing
    for owner, name in model.parts():
        owner.__dict__.pop(name, None)  # left by an earlier call
        ways = modes
        has_regions = _compile_regions(model, owner, name, modes)
        if mode == inference_mode == "none":
            continue
        method = getattr(owner, name)
        if has_regions:
            ways = {training: "graphs" if "graphs" in way else "none" for training, way in ways.items()}
        prepared = {training: _prepare(method, way, fixed[training], recorder_type) for training, way in ways.items()}
        setattr(owner, name, _by_phase(model, prepared))
    for owner, name in model.recordable():
        owner.__dict__.pop(name, None)
        if "graphs" in inference_mode:
            setattr(owner, name, _prepare(getattr(owner, name), "graphs", fixed[False], recorder_type))
    for owner, name, axes in model.formulas():
        owner.__dict__.pop(name, None)
        if "kernels" in mode:
            method = getattr(owner, name)
            setattr(owner, name, _by_phase(model, {True: _for_any_size(method, axes), False: method}))


def infer_in(model: Any, dtype: str) -> None:
    """Let matrix products on a GPU be of a type of 16 bits outside of training, "bfloat16" or "float16"."""
    DTYPES.check("dtype", dtype)
    model.__dict__.pop("forward", None)
    forward = model.forward
    if dtype == "float32":
        return

    def call(*args: Any, **kwargs: Any) -> Any:
        if model.training or model.device.type != "cuda":
            return forward(*args, **kwargs)
        with torch.autocast("cuda", dtype=getattr(torch, dtype)):
            return forward(*args, **kwargs)

    model.forward = call


def _by_phase(model: nn.Module, prepared: dict[bool, Callable]) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        return prepared[model.training](*args, **kwargs)

    return call


def _compile_regions(model: nn.Module, owner: Any, name: str, ways: dict[bool, str]) -> bool:
    """Compile a part piece by piece, if it says what its pieces are; whether it does."""
    kind = type(owner)
    # A subclass with a method of its own, whose pieces may be others, is compiled whole, if it does not name them.
    named = hasattr(kind, "regions") and issubclass(_definer(kind, "regions"), _definer(kind, name))
    regions: list[Region] = owner.regions().get(name, []) if named else []
    for module, method_name, axes in regions:
        module.__dict__.pop(method_name, None)
        method = getattr(module, method_name)
        if any("kernels" in way for way in ways.values()):
            compiled = _for_any_size(method, axes)
            setattr(
                module, method_name, _by_phase(model, {k: compiled if "kernels" in ways[k] else method for k in ways})
            )
    return bool(regions)


def _definer(kind: type, name: str) -> type:
    return next(each for each in kind.__mro__ if name in vars(each))


def _prepare(method: MethodType, mode: str, fixed: set[int], recorder_type: Callable[[], Any]) -> Callable:
    # The bound method, not the module: a compiled module would be another child with the same weights.
    function: Callable = method
    if "kernels" in mode:
        _keep_what_is_compiled()
        # PyTorch 2.4 would else use the weights it was traced with, which are not those of another recording.
        if torch.__version__ < "2.5":  # a TorchVersion, which compares numbers
            torch._dynamo.config.inline_inbuilt_nn_modules = True
        function = torch.compile(method)
    if "graphs" in mode:
        function = GraphedFunction(function, cast(nn.Module, method.__self__), fixed, recorder_type)
    return function


def _for_any_size(method: MethodType, axes: Sequence[int | None]) -> Callable:
    """A method, compiled once for all sizes of an axis of each of its first arguments, None where none changes."""
    compiled = _prepare(method, "kernels", set(), CudaRecorder)

    def call(*args: Any, **kwargs: Any) -> Any:
        changing = [(x, axis) for x, axis in zip(args, axes, strict=False) if axis is not None and x is not None]
        if any(x.shape[axis] < 2 for x, axis in changing):  # sizes that torch.compile treats as cases of their own
            return method(*args, **kwargs)
        for x, axis in changing:
            torch._dynamo.maybe_mark_dynamic(x, axis)
        return compiled(*args, **kwargs)

    return call


def _choose_folder() -> None:
    """Let torch.compile find in later processes what it made in this one."""
    folder = cache_folder() / "compiled"
    # PyTorch sets it, too, to a temporary folder.
    if os.environ.get(CACHE_VARIABLE, PYTORCHS_CHOICE).startswith(PYTORCHS_CHOICE):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.environ[CACHE_VARIABLE] = str(folder)
        except OSError as error:
            logger.warning("compiled kernels are not kept: %s", error)
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")  # PyTorch 2.4 leaves it off


@cache
def _keep_what_is_compiled() -> None:
    """Keep what torch.compile makes, and log how long it takes."""
    _choose_folder()
    started, total = 0.0, 0.0

    def start(*_: Any) -> None:
        nonlocal started
        started = time.perf_counter()

    def end(*_: Any) -> None:
        nonlocal total
        seconds = time.perf_counter() - started
        total += seconds
        graphs = {kind: torch._dynamo.utils.counters["inductor"][f"fxgraph_cache_{kind}"] for kind in CACHE_RESULTS}
        logger.info(
            "compiled in %.1f s, so far %.1f s; %d of %d graphs were found in %s",
            seconds,
            total,
            graphs["hit"],
            sum(graphs.values()),
            os.environ.get(CACHE_VARIABLE),
        )

    torch._dynamo.on_compile_start(start)
    torch._dynamo.on_compile_end(end)
