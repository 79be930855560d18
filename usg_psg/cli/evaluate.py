"""Scores a file of predictions, of any model, against PSG annotations."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Iterator

from ..data import load_psg_json
from ..data.psg_json import open_psg
from ..evaluation import Prediction, SGDetMetrics, open_writer, read_predictions
from ..evaluation.formats import PredictionWriter
from ..evaluation.records import (
    images_with_relations,
    records_of_file,
    score_predictions,
    training_triplets_of_file,
)
from ..evaluation.rename import rename_predictions
from ..evaluation.report import format_predicates, format_summary, save_results
from ..visualization import save_plots
from ..vocabulary import Vocabulary
from . import image_root_of


def run(args: Namespace) -> None:
    """Score, write what was asked for, and print the main numbers."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    content = open_psg(args.gt)
    vocabulary = content.vocabulary
    records = records_of_file(args.pred, load_psg_json(args.gt, image_root_of(args.gt, args.image_root), args.split))
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
    print("\n".join(lines))


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
