"""The order of the rooms (docs/architecture.md): imports point down it, and none goes in a circle."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the top to the ground floor. A room is a folder or a file of the package; `compat` is no room of the house.
ROOMS = (
    "cli", "server", "predictor", "model_folder", "engine", "visualization", "evaluation", "pretrained", "config",
    "modeling", "inference", "losses", "data", "graph_formats", "onnx", "tracking", "scene_graph", "structures",
    "masks", "images", "training_counts", "vocabulary", "utils",
)  # fmt: skip
# What a user may do without: packages, the modules that need gradio and FastAPI, and setuptools, which compiling needs.
OPTIONAL = {
    "deformops.backends.triton",
    "deformops.registry",
    "gradio",
    "networkx",
    "onnx",
    "onnxruntime",
    "onnxruntime.transformers.float16",
    "onnxruntime.transformers.onnx_model",
    "pyarrow.parquet",
    "sentence_transformers",
    "usg_psg.visualization.app",
    "torch.utils.cpp_extension",
    "torch.utils",
}


def modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, with whether a function does; imports for type checkers alone are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    skipped = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            base = base if node.level else str(node.module)
            for alias in node.names:
                yield (f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base), node in inside


HOUSE = {
    name: path
    for package in ("usg_psg", "mask2former_ops", "usg_psg_cli")
    for name, path in modules(package).items()
    if not name.startswith("usg_psg.compat") and name != "mask2former_ops.setup"
}
IMPORTS = {name: list(imports(name, path, set(HOUSE))) for name, path in HOUSE.items()}


def room(name: str) -> str:
    return name.split(".")[1] if name.startswith("usg_psg.") else ""


def test_every_file_is_in_a_room():
    assert {room(name) for name in HOUSE} - {""} == set(ROOMS)


def test_imports_point_down():
    rank = {name: i for i, name in enumerate(ROOMS)}
    upward = [
        f"{name} imports {target}"
        for name, targets in IMPORTS.items()
        for target, _ in targets
        if room(name) and room(target) in rank and rank[room(name)] > rank[room(target)]
    ]
    assert not upward


def test_no_circle():
    own = {name: {target for target, _ in targets if target in HOUSE} for name, targets in IMPORTS.items()}
    # A package's __init__ imports its modules, and runs before them when others import one: no circle of its own.
    graph = {name: {t for t in targets if HOUSE[t].name != "__init__.py"} for name, targets in own.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' <- '.join(error.args[1])}")


def test_functions_import_only_what_may_be_missing():
    found = [
        f"{name}: {target}"
        for name, targets in IMPORTS.items()
        for target, inside in targets
        if inside and target not in OPTIONAL
    ]
    assert not found


def test_evaluation_and_training_draw_nothing():
    drawing = {"matplotlib", "PIL.ImageDraw", "usg_psg.visualization"}
    found = [
        f"{name}: {target}"
        for name, targets in IMPORTS.items()
        for target, _ in targets
        if room(name) in ("evaluation", "losses", "inference", "modeling", "engine")
        and any(target == each or target.startswith(each + ".") for each in drawing)
    ]
    assert not found


def test_libraries_that_take_seconds_wait_until_they_are_used():
    """OpenCLIP and timm bring torchvision, transformers and torch._dynamo: 6 of 10 s at the start of a program."""
    code = (
        "import sys, usg_psg.predictor, usg_psg.engine\n"
        "print({'open_clip', 'timm', 'torchvision', 'transformers', 'torch._dynamo', 'matplotlib'} & {*sys.modules})"
    )
    env = {**os.environ, "USG_PSG_ENGINE": "bundled"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_standard_library_is_enough_for_the_parsers():
    """`usg-psg --help` answers at once: the package of the parsers imports neither torch nor the house."""
    foreign = {
        target.partition(".")[0]
        for name, targets in IMPORTS.items()
        for target, inside in targets
        if name.startswith("usg_psg_cli") and not inside
    }
    assert foreign <= {*sys.stdlib_module_names, "usg_psg_cli"}
