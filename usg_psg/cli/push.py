"""Writes the folder of a model, or uploads it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from ..predictor import SceneGraphPredictor
from ..utils.files import read_json
from . import config_of


def run(args: Namespace) -> None:
    """Write, upload, or both; say where it is and how to use it."""
    results = None if args.results is None else _read_results(args.results)
    predictor = SceneGraphPredictor(config_of(args))
    options: dict[str, Any] = {"with_backbone": args.with_backbone or None, "results": results}
    if args.output:
        predictor.save_pretrained(args.output, **options)
        print(f'{args.output}: SceneGraphPredictor.from_pretrained("{args.output}")')
    if args.repo:
        print(predictor.push_to_hub(args.repo, private=args.private, **options))


def _read_results(path: Path) -> dict[str, Any]:
    results = read_json(path)
    if not isinstance(results, dict):
        raise ValueError(f"--results {path}: expected metrics by name, got {type(results).__name__}")
    return results
