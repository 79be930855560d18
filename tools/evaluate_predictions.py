#!/usr/bin/env python
"""Score a file of predictions, of any model, against PSG annotations.

    python tools/evaluate_predictions.py --gt datasets/psg/psg.json --pred predictions.json

The file may be this project's predictions.json, SGBench's archive, the folder of an OpenPSG submission, the results.pkl
of OpenPSG, HiLo or Pair-Net, or COCO's panoptic results; its content tells. docs/evaluation.md describes each.
"""

from __future__ import annotations

import ctrl_c  # noqa: F401  first, as the imports take seconds

# isort: split
import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import usg_psg  # noqa: F401  selects the engine
from usg_psg.data import load_psg_json
from usg_psg.data.psg_json import SPLITS, open_psg
from usg_psg.evaluation import EXPORT_FORMATS, Prediction, SGDetMetrics, open_writer, read_predictions
from usg_psg.evaluation.formats import PredictionWriter
from usg_psg.evaluation.records import (
    images_with_relations,
    records_of_file,
    score_predictions,
    training_triplets_of_file,
)
from usg_psg.evaluation.rename import rename_predictions
from usg_psg.evaluation.report import format_predicates, format_summary, save_results
from usg_psg.evaluation.sgdet_evaluator import TASKS
from usg_psg.evaluation.sgdet_metrics import KS
from usg_psg.utils.program import one_line_errors, positive_integer
from usg_psg.visualization import save_plots
from usg_psg.vocabulary import Vocabulary


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gt", required=True, type=Path, help="psg.json, or a file of the same form")
    parser.add_argument("--pred", required=True, type=Path, help="predictions: a file, or the folder of a submission")
    parser.add_argument(
        "--image-root", type=Path, help="folder of the panoptic PNGs; default: ../coco beside the folder of --gt"
    )
    parser.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="what the numbers in --pred stand for, matched with --gt by name (default: the names of --gt)",
    )
    parser.add_argument("--split", default="test", choices=SPLITS, help="images to score (default: test)")
    parser.add_argument("--task", default="sgdet", choices=TASKS, help="what the model was given (default: sgdet)")
    parser.add_argument(
        "--train",
        type=Path,
        metavar="FILE",
        help="training data of zero-shot recall, the frequency baseline and head, body and tail: the images outside "
        "this file's test split (default: --gt)",
    )
    parser.add_argument(
        "--frequency-baseline",
        action="store_true",
        help="also score the most frequent training predicates of each pair of predicted objects",
    )
    parser.add_argument(
        "--ks", type=positive_integer, nargs="+", default=list(KS), metavar="K", help="ranks of the recalls"
    )
    parser.add_argument("--output", type=Path, help="also write everything to this JSON file")
    parser.add_argument(
        "--export",
        nargs=2,
        metavar=("FORMAT", "FOLDER"),
        help=f"also write the predictions in another format ({', '.join(EXPORT_FORMATS)}) into this folder",
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="also draw figures into this folder")
    parser.add_argument("--predicates", type=int, metavar="K", help="also print recall@K of every predicate")
    args = parser.parse_args(argv)
    if args.export and args.export[0] not in EXPORT_FORMATS:
        parser.error(f"--export: expected one of {', '.join(EXPORT_FORMATS)}, got {args.export[0]!r}")
    if args.predicates is not None and args.predicates not in args.ks:
        parser.error(f"--predicates: expected one of --ks, {', '.join(map(str, args.ks))}, got {args.predicates}")
    return args


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Run the program; returns its exit status, 2 for bad input."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    print(evaluate(args))
    return 0


def evaluate(args: argparse.Namespace) -> str:
    """Score, write what was asked for, and return what to print."""
    content = open_psg(args.gt)
    vocabulary = content.vocabulary
    image_root = args.image_root or args.gt.resolve().parent.parent / "coco"
    records = records_of_file(args.pred, load_psg_json(args.gt, image_root, args.split))
    training = training_triplets_of_file(open_psg(args.train) if args.train else content, vocabulary, args.split)
    metrics = SGDetMetrics(
        len(vocabulary.predicate_classes),
        is_thing=vocabulary.is_thing if args.task == "sgdet" else None,
        ks=sorted(set(args.ks)),
        training=training,
        baseline=args.frequency_baseline and training is not None,
        baseline_scores=args.task == "sgdet",
    )
    images = images_with_relations(records)
    predictions = read_predictions(args.pred, images)
    if args.vocabulary:
        predictions = rename_predictions(predictions, Vocabulary.read(args.vocabulary), vocabulary, str(args.gt))
    writer = open_writer(*args.export) if args.export else None
    if writer is not None:
        predictions = write_each(writer, predictions)
    results = score_predictions(metrics, records, predictions, str(args.pred)).compute()
    lines = [f"{args.task}, {args.split} split of {args.gt}", format_summary(results)]
    if writer is not None:
        lines.append(f"predictions are in {writer.finish(1, images)}")
    if args.predicates is not None:
        lines.append(format_predicates(results, vocabulary.predicate_classes, args.predicates))
    if args.output:
        save_results(args.output, results, args.task, f"{args.gt.name}:{args.split}", vocabulary.predicate_classes)
        lines.append(f"results are in {args.output}")
    if args.plots:
        paths = save_plots(args.plots, results, vocabulary.predicate_classes)
        lines.append("figures are in " + ", ".join(str(p) for p in paths))
    return "\n".join(lines)


def write_each(
    writer: PredictionWriter, predictions: Iterator[tuple[str, Prediction]]
) -> Iterator[tuple[str, Prediction]]:
    """Hand on predictions, and write each once it has been scored, so that only sound ones are written."""
    try:
        for image_id, prediction in predictions:
            yield image_id, prediction
            writer.add(image_id, prediction)
    finally:
        writer.close()


if __name__ == "__main__":
    sys.exit(main())
