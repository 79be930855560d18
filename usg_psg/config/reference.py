"""Print the table of configuration keys; `--write` puts it into docs/configuration.md.

Keys and defaults come from the config itself, meanings and sources from the comments of defaults.py.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.config import get_cfg

from ..utils.generated_table import print_or_write
from . import defaults
from .build import build_cfg
from .files import leaves

SOURCE = Path(defaults.__file__)
DOCUMENT = SOURCE.parents[2] / "docs" / "configuration.md"
MARKS = "keys"

# What Detectron2's own keys mean here, of those that a recipe sets or this project reads.
DETECTRON2_KEYS = {
    "CUDNN_BENCHMARK": "let cuDNN time its kernels and keep the fastest, which may differ from run to run",
    "DATALOADER.NUM_WORKERS": "processes that load data, for each training process",
    "DATALOADER.REPEAT_SQRT": "take the square root in the repeat factors of `DATALOADER.SAMPLER_TRAIN`",
    "DATALOADER.REPEAT_THRESHOLD": "fraction of images below which a predicate is rare for `DATALOADER.SAMPLER_TRAIN`",
    "DATASETS.TEST": "registered data sets to evaluate on; they share one vocabulary",
    "DATASETS.TRAIN": "registered data sets to train on",
    "FLOAT32_PRECISION": '`torch.set_float32_matmul_precision`: "highest", "high", "medium", or "" for PyTorch\'s own',
    "INPUT.MAX_SIZE_TRAIN": 'upper limit of the longer side with "shortest_edge", pixels',
    "INPUT.MIN_SIZE_TRAIN": 'lengths of the shorter side to choose from with "shortest_edge", pixels',
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": '"choice": one of them; "range": any length between two',
    "INPUT.RANDOM_FLIP": 'mirror an image with probability 1/2: "horizontal" (which exchanges names of sides, such as '
    '"left of" and "right of"), "vertical" or "none"',
    "MODEL.DEVICE": '"cuda", "cuda:1", "cpu"; without a GPU, "cpu" is taken',
    "MODEL.WEIGHTS": "checkpoint to start from, or to evaluate",
    "OUTPUT_DIR": "folder of checkpoints, logs and results",
    "SEED": "seed of all random numbers; below 0: a new one for each run",
    "SOLVER.CHECKPOINT_PERIOD": "steps between checkpoints",
    "SOLVER.IMS_PER_BATCH": "images per step, of all processes together",
    "SOLVER.MAX_ITER": "steps of training",
    "SOLVER.REFERENCE_WORLD_SIZE": "scale batch, learning rate and schedule from this number of processes to the "
    "actual one; 0: leave them",
    "TEST.EVAL_PERIOD": "steps between evaluations; 0: only at the end",
    "TEST.EXPECTED_RESULTS": "[[task, metric, value, tolerance], ...] that an evaluation must reach",
    "TEST.PRECISE_BN.ENABLED": "must stay False: the trained parts have no batch normalisation",
    "VERSION": "version of the config's format; recipes say 2",
}


class Comment(NamedTuple):
    """What the comment of a key says: its meaning, and where the default comes from ("" for this project)."""

    meaning: str
    source: str


def read_comments(text: str) -> dict[str, Comment]:
    """Comments of all keys that the functions of defaults.py set.

    Args:
        text: Python source whose functions assign keys to `cfg`, to nodes of it, or to a new node that they return.

    Raises:
        ValueError: for a key without a meaning, or one that is set twice.
    """
    functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    spoken = {
        token.start[0]: (token.string.lstrip("# "), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, Comment] = {}

    def visit(function: ast.FunctionDef, prefix: str) -> None:
        nodes = {"cfg": ""}
        for statement in function.body:
            if not isinstance(statement, ast.Assign):
                continue
            paths = [_path(target, nodes) for target in statement.targets]
            key = next((path for path in paths if path), "")
            called = _called(statement.value)
            if called == "CfgNode":
                nodes.update({target.id: key for target in statement.targets if isinstance(target, ast.Name)})
            elif called in functions:
                visit(functions[called], prefix + key + ".")
            elif key:
                if prefix + key in found:
                    raise ValueError(f"{prefix}{key} is set twice")
                found[prefix + key] = _comment(prefix + key, statement, spoken)

    for function in functions.values():
        if [argument.arg for argument in function.args.args] == ["cfg"]:
            visit(function, "")
    return found


def _called(value: ast.expr) -> str:
    """Name of the function whose result is assigned, "" for anything else."""
    return value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""


def _path(target: ast.expr, nodes: dict[str, str]) -> str:
    """`usg.RPC.NUM_PAIRS` as "MODEL.USG.RPC.NUM_PAIRS"; "" for anything but an attribute of a node."""
    names: list[str] = []
    while isinstance(target, ast.Attribute):
        names.insert(0, target.attr)
        target = target.value
    if not names or not isinstance(target, ast.Name) or target.id not in nodes:
        return ""
    return ".".join([nodes[target.id], *names] if nodes[target.id] else names)


def _comment(key: str, statement: ast.Assign, spoken: dict[int, tuple[str, bool]]) -> Comment:
    """The comment lines above a statement, then those behind it."""
    above: list[str] = []
    line = statement.lineno - 1
    while spoken.get(line, ("", False))[1]:
        above.insert(0, spoken[line][0])
        line -= 1
    behind = [spoken[n][0] for n in range(statement.lineno, (statement.end_lineno or 0) + 1) if n in spoken]
    said = " ".join([*above, *behind])
    source = re.search(r" ?\[([^\]\[]+)\]$", said)
    meaning = said[: source.start()] if source else said
    if not re.sub(r"SPEC [\d, and]+", "", meaning).strip(" ;:,."):
        raise ValueError(f"{SOURCE.name}, line {statement.lineno}: {key} has no comment that says what it means")
    return Comment(meaning.rstrip(". "), source.group(1) if source else "")


def table() -> str:
    """All keys as Markdown tables, one for each part of the config.

    Raises:
        ValueError: for a key without a meaning.
    """
    original, ours = dict(leaves(get_cfg())), dict(leaves(build_cfg()))
    comments = read_comments(SOURCE.read_text(encoding="utf-8"))
    if unknown := sorted(comments.keys() - ours.keys()):
        raise ValueError(f"{SOURCE.name} sets keys that the config lacks: {', '.join(unknown)}")
    if silent := sorted(ours.keys() - original.keys() - comments.keys()):
        raise ValueError(f"{SOURCE.name}: no comment was found for {', '.join(silent)}")
    rows: dict[str, list[str]] = {}
    for key, (meaning, source) in comments.items():
        if key in original and original[key] != ours[key]:
            meaning += f" (Detectron2's default: `{_show(original[key])}`)"
        rows.setdefault(_section(key), []).append(_row(key, ours[key], meaning, source or "this project"))
    own = [
        _row(key, ours[key], meaning, "Detectron2") for key, meaning in DETECTRON2_KEYS.items() if key not in comments
    ]
    rows["Detectron2's keys that recipes set or this project reads"] = own
    head = "| key | default | meaning | default from |\n| --- | --- | --- | --- |\n"
    return "\n\n".join(f"## {title}\n\n{head}" + "\n".join(lines) for title, lines in rows.items())


def _section(key: str) -> str:
    parts = key.split(".")
    if parts[:2] == ["MODEL", "USG"]:
        return ".".join(parts[: 3 if len(parts) > 3 else 2])
    return ".".join(parts[:2]) if parts[:2] == ["MODEL", "CLIP"] else parts[0]


def _row(key: str, value: Any, meaning: str, source: str) -> str:
    meaning = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", meaning)
    cells = (f"`{key}`", f"`{_show(value)}`", meaning[0].upper() + meaning[1:], source)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        items = ", ".join(_show(item) for item in value)
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' * (len(value) == 1)})"
    return f'"{value}"' if isinstance(value, str) else str(value)


def main(argv: list[str] | None = None) -> None:
    """Print the tables, or write them between the marks in docs/configuration.md."""
    print_or_write(table, DOCUMENT, MARKS, str(__doc__), argv)


if __name__ == "__main__":
    main()
