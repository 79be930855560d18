#!/usr/bin/env python
"""Train or evaluate USG-Par.

python tools/train_net.py --config-file configs/psg/usg_par_convnext_large.yaml --num-gpus 8
python tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
python tools/train_net.py --config-file ... --eval-only --vocabulary prompts.yaml MODEL.WEIGHTS ...
python tools/train_net.py --config-file ... SOLVER.IMS_PER_BATCH 8 SOLVER.BASE_LR 5e-4 OUTPUT_DIR output/ablation

Overrides are KEY VALUE or KEY=VALUE. To continue an interrupted run: the same command with --resume. A new run in the
folder of an earlier one: --overwrite, which removes that one's checkpoints and logs.
"""

from __future__ import annotations

import ctrl_c  # noqa: F401  first, as the imports take seconds

# isort: split
import usg_psg  # noqa: F401  selects the engine, so it comes before detectron2

# isort: split
import argparse
import sys
from contextlib import nullcontext

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from usg_psg.compat import log_engine
from usg_psg.config import build_cfg
from usg_psg.engine import Trainer, USGCheckpointer, adapt_to_machine, check_run, launch, number_of_processes
from usg_psg.engine.launch import is_first_process
from usg_psg.engine.output_folder import locked, start_new_training
from usg_psg.engine.preflight import weights_path
from usg_psg.engine.terminal import evaluation_summary, log_to_terminal, setup_logging, setup_run
from usg_psg.engine.training_record import warn_about_test_data
from usg_psg.utils.program import add_trust_argument, one_line_errors, parse_with_overrides


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config of the command line."""
    cfg = build_cfg(args.config_file, args.opts, trust_imports=args.trust_imports)
    if args.vocabulary:
        cfg.MODEL.USG.VOCABULARY = args.vocabulary
    return cfg


def setup(args: argparse.Namespace) -> CfgNode:
    """The config of a run, frozen, with logging set up."""
    cfg = read_config(args)
    setup_logging(cfg.OUTPUT_DIR)
    log_engine()
    adapt_to_machine(cfg)
    cfg.freeze()
    setup_run(cfg, args)
    return cfg


def run(args: argparse.Namespace) -> dict | None:
    """Train, or evaluate with --eval-only; in each process."""
    cfg = setup(args)
    if not args.eval_only:
        trainer = Trainer(cfg)
        trainer.recipe = args.config_file
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    # Evaluation needs no names of the training data: a vocabulary file may lack them.
    alone = cfg.clone()
    alone.defrost()
    alone.DATASETS.TRAIN = ()
    model = Trainer.build_model(alone)
    checkpointer = USGCheckpointer(model, save_dir=cfg.OUTPUT_DIR, load_ema=cfg.SOLVER.EMA.ENABLED)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    if checkpointer.trained_on is not None:
        warn_about_test_data(checkpointer.trained_on, alone)
    if comm.is_main_process():
        resumed = args.resume and checkpointer.has_checkpoint()
        weights = checkpointer.get_checkpoint_file() if resumed else cfg.MODEL.WEIGHTS
        log_to_terminal(evaluation_summary(cfg, args.config_file, weights, model))
    # The frequency baseline does need the training data.
    results = Trainer.test(alone, model, [Trainer.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST])
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Command line of this program.

    Raises:
        ValueError: if no configuration file is given.
    """
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument("--vocabulary", metavar="FILE", help="prompts and synonyms, see docs/open_vocabulary.md")
    parser.add_argument(
        "--overwrite", action="store_true", help="remove the checkpoints and logs of an earlier training in OUTPUT_DIR"
    )
    add_trust_argument(parser)
    args = parse_with_overrides(parser, argv)
    if not args.config_file:
        given = next((word for word in args.opts if word.endswith((".yaml", ".yml"))), "")
        example = given or "configs/psg/usg_par_best.yaml"
        raise ValueError(f"no recipe is given; type: python tools/train_net.py --config-file {example}")
    if args.resume and args.overwrite:
        raise ValueError("--resume goes on with what --overwrite removes: give one of them")
    return args


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """0 when the run is done; what is wrong with its input is found before processes are started."""
    args = parse_args(argv)
    processes = number_of_processes(args.num_gpus, args.num_machines)
    cfg = read_config(args)
    check_run(cfg, train=not args.eval_only, evaluate=True, world_size=processes, resume=args.resume)
    is_first = is_first_process(args.machine_rank)
    with locked(cfg.OUTPUT_DIR) if is_first else nullcontext():
        if is_first and not args.eval_only and not args.resume:
            start_new_training(cfg.OUTPUT_DIR, weights_path(cfg), args.overwrite)
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
