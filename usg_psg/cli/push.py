"""Writes the folder of a model, or uploads it."""

from __future__ import annotations

import json
from argparse import Namespace

from ..predictor import SceneGraphPredictor
from . import config_of


def run(args: Namespace) -> None:
    """Write, upload, or both; say where it is and how to use it."""
    results = None if args.results is None else json.loads(args.results.read_text(encoding="utf-8"))
    predictor = SceneGraphPredictor(config_of(args))
    options = {"with_backbone": args.with_backbone or None, "results": results}
    if args.output:
        predictor.save_pretrained(args.output, **options)
        print(f'{args.output}: SceneGraphPredictor.from_pretrained("{args.output}")')
    if args.repo:
        print(predictor.push_to_hub(args.repo, private=args.private, **options))
