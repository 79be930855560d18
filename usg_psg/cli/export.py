"""Writes a model's network in formats that other programs run, with its names beside it."""

from __future__ import annotations

import importlib.util
import json
import logging
import statistics
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch.export import ExportedProgram

from ..modeling.export import OUTPUTS, ExportableNetwork, export_network
from ..onnx import NAMES_SUFFIX, SETTINGS_KEY, OnnxPredictor
from ..predictor import SceneGraphPredictor
from ..utils.files import write_json, write_whole
from ..vocabulary import VOCABULARY_KEY
from . import config_of

RUNS = 5  # of a benchmark, after one that does not count


def run(args: Namespace) -> None:
    """Write the files, say what they are, and measure if that is asked for.

    Raises:
        ValueError: if the model cannot be exported, or a package is missing.
    """
    if args.format == "onnx":
        _check_onnx()
    cfg = config_of(args)
    if cfg.TEST.TASK != "sgdet":
        raise ValueError(f"TEST.TASK {cfg.TEST.TASK}: expected sgdet, the task that an exported network does")
    cfg.MODEL.USG.COMPILE = cfg.TEST.USG.COMPILE = "none"
    cfg.TEST.USG.DTYPE = "float32"
    if args.format == "onnx":
        cfg.MODEL.DEVICE = "cpu"
    predictor = SceneGraphPredictor(cfg, allow_random=True)
    output: Path = args.output
    output.parent.mkdir(parents=True, exist_ok=True)
    names_file = output if args.format == "names" else output.with_suffix(NAMES_SUFFIX)
    _write_names(predictor, names_file)
    if args.format != "names":
        program, settings = export_network(predictor.model), _settings(predictor)
        if args.format == "onnx":
            _write_onnx(program, output, settings, args.half)
        elif args.format == "torch-export":
            torch.export.save(program, output, extra_files={f"{SETTINGS_KEY}.json": json.dumps(settings)})
        else:
            torch._inductor.aoti_compile_and_package(program, package_path=str(output.absolute()))
            write_json(output.with_suffix(".json"), settings)
        print(f"{output}, {output.stat().st_size / 2**20:.1f} MiB")
    print(f"{names_file}: {len(predictor.vocabulary.object_classes)} objects, its predicates, and their embeddings")
    if args.benchmark:
        benchmark(predictor, output, args.benchmark)


def _check_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"--format onnx needs {', '.join(missing)}: pip install usg_psg[onnx]")
    if torch.__version__ < "2.6":
        raise ValueError(f"--format onnx needs PyTorch 2.6 or newer, this is {torch.__version__}")


def _settings(predictor: SceneGraphPredictor) -> dict[str, Any]:
    """What `OnnxPredictor` does before and after the network."""
    cfg, model = predictor.cfg, predictor.model
    return {
        "image_format": cfg.INPUT.FORMAT,
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "pixel_mean": model.pixel_mean.flatten().tolist(),
        "pixel_std": model.pixel_std.flatten().tolist(),
        "size_divisibility": model.size_divisibility,
        "object_threshold": model.postprocessor.object_threshold,
        "overlap_threshold": model.postprocessor.overlap_threshold,
        "relations_per_image": model.postprocessor.relations_per_image,
    }


def _write_names(predictor: SceneGraphPredictor, path: Path) -> None:
    """A `Vocabulary` file, with what depends on the names besides: the ensemble's weights, priors."""
    model, record = predictor.model, predictor.vocabulary.record()
    tensors = {"objects": model.object_text, "predicates": model.predicate_text}
    if model.clip_ensemble is not None:
        tensors["clip_weight"] = model.clip_ensemble.weight
    post = model.postprocessor
    if post.predicate_logit_adjustment:
        tensors["predicate_shift"] = post.predicate_shift()
    if post.triplet_prior:
        if post.prior is None:
            raise ValueError("TEST.USG.TRIPLET_PRIOR: the weights come without the training data's triplet counts")
        number = len(model.object_text)
        classes = torch.arange(number, device=model.device)
        table = post.prior(classes.repeat_interleave(number), classes.repeat(number))
        tensors["triplet_prior"] = table.unflatten(0, (number, number))
    metadata = {VOCABULARY_KEY: json.dumps({key: value for key, value in record.items() if key not in tensors})}
    content = save({key: value.float().cpu().contiguous() for key, value in tensors.items()}, metadata=metadata)
    write_whole(path, lambda file: file.write(content))


def _write_onnx(program: ExportedProgram, path: Path, settings: dict[str, Any], half: bool) -> None:
    """Translate, check and write; weights of 16 bits on request, inputs and outputs stay float32."""
    import onnx

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it lists all operators that it leaves as they are
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = torch.onnx.export(program, dynamo=True, output_names=list(OUTPUTS), verbose=False)
        except Exception as error:  # an operator that ONNX lacks; the first cause names it
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = str(cause).strip().partition("\n")[0]
            raise ValueError(f"--format onnx: this network cannot be translated: {reason}") from error
    assert made is not None
    model = made.model_proto
    if half:
        model = to_half(model)
    onnx.helper.set_model_props(model, {SETTINGS_KEY: json.dumps(settings)})
    large = model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF
    weights = f"{path.name}.data"
    onnx.save(model, path, save_as_external_data=large, location=weights if large else None)
    onnx.checker.check_model(str(path), full_check=True)


def to_half(model: Any) -> Any:
    """An ONNX model with weights and arithmetic of 16 bits."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    converted = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
    converted.topological_sort()  # the casts of the inputs stand at the end
    return converted.model


def benchmark(predictor: SceneGraphPredictor, path: Path, size: list[int]) -> None:
    """Print the latency of PyTorch and of onnxruntime, of the network alone and from an image to its graph."""
    other = OnnxPredictor(path, threads=torch.get_num_threads())
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    batch, sizes = other.preprocess([image])
    inputs = {"image": batch, "sizes": sizes, **other.names.arrays}
    given = {name: torch.from_numpy(inputs[name]) for name in (x.name for x in other.session.get_inputs())}
    network = torch.no_grad()(ExportableNetwork(predictor.model).eval())
    height, width = batch.shape[2:]
    threads = torch.get_num_threads()
    print(f"CPU, {threads} threads, image {size[0]}x{size[1]}, network {height}x{width}; median ms of {RUNS}")
    rows: dict[str, list[Callable[[], object]]] = {
        "network": [lambda: network(**given), lambda: other.run(batch, sizes)],
        "image to graph": [lambda: predictor(image), lambda: other(image)],
    }
    for name, functions in rows.items():
        times = [_median(function) for function in functions]
        print(f"{name}: PyTorch {times[0]:.1f}, onnxruntime {times[1]:.1f}")


def _median(function: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])
