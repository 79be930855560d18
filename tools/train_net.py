#!/usr/bin/env python
"""Train or evaluate USG-Par.

python tools/train_net.py --config-file configs/psg/usg_par_convnext_large.yaml --num-gpus 8
python tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
python tools/train_net.py --config-file ... --eval-only --vocabulary prompts.yaml MODEL.WEIGHTS ...
python tools/train_net.py --config-file ... SOLVER.IMS_PER_BATCH 8 SOLVER.BASE_LR 5e-4 OUTPUT_DIR output/ablation

To continue an interrupted run: the same command with --resume, before the overrides.
"""

from __future__ import annotations

import usg_psg  # noqa: F401  selects the engine, so it comes before detectron2

# isort: split
import argparse
import sys

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from usg_psg.compat import log_engine
from usg_psg.config import build_cfg
from usg_psg.engine import Trainer, USGCheckpointer, adapt_to_machine, check_run, launch, number_of_processes
from usg_psg.engine.training_record import warn_about_test_data
from usg_psg.program import hide_expected_tracebacks, one_line_errors


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config of the command line."""
    cfg = build_cfg(args.config_file, args.opts)
    if args.vocabulary:
        cfg.MODEL.USG.VOCABULARY = args.vocabulary
    return cfg


def setup(args: argparse.Namespace) -> CfgNode:
    """The config of a run, frozen, with logging set up."""
    cfg = read_config(args)
    for name in ("usg_psg", "mask2former_ops"):
        setup_logger(output=cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    log_engine()
    adapt_to_machine(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    hide_expected_tracebacks()
    return cfg


def run(args: argparse.Namespace) -> dict | None:
    """Train, or evaluate with --eval-only; in each process."""
    cfg = setup(args)
    if not args.eval_only:
        trainer = Trainer(cfg)
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
    results = Trainer.test(alone, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """0 when the run is done; what is wrong with its input is found before processes are started."""
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument("--vocabulary", metavar="FILE", help="prompts and synonyms, see docs/open_vocabulary.md")
    args = parser.parse_args(argv)
    processes = number_of_processes(args.num_gpus, args.num_machines)
    check_run(read_config(args), train=not args.eval_only, evaluate=True, world_size=processes, resume=args.resume)
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
