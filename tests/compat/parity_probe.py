"""Writes how the running engine behaves as JSON; on both engines the result must be the same.

python parity_probe.py OUTPUT [RESULT OF THE BUNDLED ENGINE, which says whose methods to look at]
"""

from __future__ import annotations

import ast
import inspect
import json
import random
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

import usg_psg.compat

FOLDER = Path(usg_psg.compat.__file__).parent


def bundled_names() -> dict[str, list[str]]:
    """`__all__` of each module of the bundled subset, read without importing it."""
    names = {}
    for path in sorted((FOLDER / "detectron2").rglob("*.py")):
        module = ".".join(path.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__init__")
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
                names[module] = ast.literal_eval(statement.value)
    return names


def parameters(function) -> list:
    """Name, kind and default of each parameter; None where there is no signature."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    empty = inspect.Parameter.empty
    return [[p.name, str(p.kind), "" if p.default is empty else repr(p.default)] for p in signature.parameters.values()]


def signatures(wanted: dict[str, list[str]] | None) -> dict[str, list]:
    """Signatures of all bundled functions and classes, and of the public methods that the bundled classes define."""
    found = {}
    for module, names in bundled_names().items():
        for name in names:
            value = getattr(import_module(module), name, "missing")
            key = f"{module}.{name}"
            if inspect.isclass(value):
                found[key] = parameters(value)
                methods = wanted[key + " methods"] if wanted else [n for n in vars(value) if not n.startswith("_")]
                found[key + " methods"] = {m: member(value, m) for m in methods}
            elif callable(value):
                found[key] = parameters(value)
            else:
                found[key] = type(value).__name__
    return found


def member(cls: type, name: str) -> list | str:
    """Signature of a method, kind of another attribute."""
    value = getattr(cls, name, "missing")
    return parameters(value) if callable(value) else type(value).__name__


def seeded(seed: int = 3) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def learning_rates() -> dict[str, list[float]]:
    from detectron2.config import get_cfg
    from detectron2.solver import build_lr_scheduler

    rates = {}
    for name in ("WarmupCosineLR", "WarmupMultiStepLR"):
        for method in ("linear", "constant"):
            for rescale in (False, True):
                cfg = get_cfg()
                cfg.SOLVER.merge_from_list(
                    ["LR_SCHEDULER_NAME", name, "MAX_ITER", 50, "STEPS", (20, 40), "WARMUP_ITERS", 10]
                    + ["WARMUP_METHOD", method, "RESCALE_INTERVAL", rescale, "BASE_LR", 0.2, "BASE_LR_END", 0.01]
                )
                optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
                scheduler = build_lr_scheduler(cfg, optimizer)
                values = [optimizer.param_groups[0]["lr"]]
                for _ in range(49):
                    optimizer.step()
                    scheduler.step()
                    values.append(optimizer.param_groups[0]["lr"])
                rates[f"{name} {method} {rescale}"] = values
    return rates


def transforms() -> dict[str, list]:
    from detectron2.data import transforms as T

    results = {}
    augmentations = {
        "choice": T.ResizeShortestEdge([20, 30, 40], 50, "choice"),
        "range": T.ResizeShortestEdge((20, 40), 45, "range"),
        "jitter": T.AugmentationList([T.ResizeScale(0.5, 1.5, 32, 40), T.FixedSizeCrop((32, 40), pad_value=7)]),
        "vertical": T.RandomFlip(0.7, horizontal=False, vertical=True),
    }
    for name, augmentation in augmentations.items():
        seeded()
        rows = []
        for height, width in ((31, 23), (24, 60), (48, 48), (33, 17)):
            image = np.random.randint(0, 256, (height, width, 3), dtype=np.uint8)
            labels = np.random.randint(0, 9, (height, width), dtype=np.uint8)
            given = T.AugInput(image)
            applied = augmentation(given)
            mapped = applied.apply_segmentation(labels)
            boxes = applied.apply_box(np.array([[1.0, 2.0, 9.0, 8.0]]))
            rows.append(
                [list(given.image.shape), int(given.image.sum()), int(mapped.astype(int).sum()), boxes.tolist()]
            )
        results[name] = rows
    sizes = [
        (h, w, s, m) for h in (1, 33, 480, 641) for w in (2, 33, 640, 427) for s in (1, 320, 800) for m in (1333, 400)
    ]
    results["sizes"] = [list(T.ResizeShortestEdge.get_output_shape(*each)) for each in sizes]
    return results


def structures() -> dict:
    from detectron2.structures import BoxMode, ImageList, Instances

    seeded()
    images = [torch.rand(3, 5, 9), torch.rand(3, 8, 4)]
    results = {}
    for divisor in (0, 4, 32):
        listed = ImageList.from_tensors(images, divisor, 0.5)
        sizes = [list(size) for size in listed.image_sizes]
        results[f"images {divisor}"] = [list(listed.tensor.shape), listed.tensor.double().sum().item(), sizes]
    results["modes"] = [BoxMode.convert(b, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for b in ([1, 2, 3, 4], (5, 6, 7, 8))]
    results["mode values"] = {mode.name: mode.value for mode in BoxMode}
    given = Instances((6, 7), scores=torch.tensor([0.1, 0.2, 0.3]), names=["a", "b", "c"])
    for key, item in (("one", 1), ("last", -1), ("slice", slice(1, None))):
        part = given[item]
        results[key] = [len(part), part.scores.tolist(), part.names, list(part.image_size)]
    cast = given.to(torch.float64)
    results["cast"] = [str(cast.scores.dtype), cast.names, cast.has("names"), cast.has("boxes")]
    return results


def configs() -> dict:
    from detectron2.config import get_cfg

    def flat(node, prefix=""):
        for key, value in node.items():
            yield from flat(value, f"{prefix}{key}.") if hasattr(value, "items") else [(prefix + key, repr(value))]

    return dict(flat(get_cfg()))


def scaling() -> dict:
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultTrainer

    cfg = get_cfg()
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    cfg.TEST.EVAL_PERIOD = 999
    return {str(n): DefaultTrainer.auto_scale_workers(cfg, n).SOLVER.dump().splitlines() for n in (3, 8, 16)}


def main() -> None:
    output, wanted = Path(sys.argv[1]), sys.argv[2:]
    parts = (configs, learning_rates, scaling, structures, transforms)
    results = {part.__name__: part() for part in parts}
    results["signatures"] = signatures(json.loads(Path(wanted[0]).read_text())["signatures"] if wanted else None)
    output.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
