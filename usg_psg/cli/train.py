"""Trains or evaluates a model, in as many processes as were asked for."""

from __future__ import annotations

from argparse import Namespace
from contextlib import nullcontext

from detectron2.evaluation import verify_results
from detectron2.utils import comm

from ..compat import log_engine
from ..engine import (
    TimeLimitHook,
    Trainer,
    USGCheckpointer,
    adapt_to_machine,
    check_run,
    launch,
    number_of_processes,
)
from ..engine.launch import is_first_process
from ..engine.output_folder import locked, start_new_training
from ..engine.preflight import weights_path
from ..engine.terminal import evaluation_summary, log_to_terminal, setup_logging, setup_run
from ..engine.training_record import warn_about_test_data
from . import config_of


def run_process(args: Namespace) -> dict | None:
    """Train, or evaluate with --eval-only; in each process."""
    cfg = config_of(args)
    setup_logging(cfg.OUTPUT_DIR)
    log_engine()
    adapt_to_machine(cfg)
    cfg.freeze()
    setup_run(cfg, args)
    if not args.eval_only:
        trainer = Trainer(cfg)
        trainer.recipe = args.config_file
        trainer.resume_or_load(resume=args.resume)
        if args.minutes:
            trainer.register_hooks([TimeLimitHook(60 * args.minutes)])
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


def run(args: Namespace) -> None:
    """Find what is wrong with the input, then start the processes."""
    processes = number_of_processes(args.num_gpus, args.num_machines)
    if args.minutes and processes > 1:
        raise ValueError(f"--minutes: expected one process, got {processes}")
    cfg = config_of(args)
    check_run(cfg, train=not args.eval_only, evaluate=True, world_size=processes, resume=args.resume)
    is_first = is_first_process(args.machine_rank)
    with locked(cfg.OUTPUT_DIR) if is_first else nullcontext():
        if is_first and not args.eval_only and not args.resume:
            start_new_training(cfg.OUTPUT_DIR, weights_path(cfg), args.overwrite)
        places = {name: getattr(args, name) for name in ("num_machines", "machine_rank", "dist_url")}
        launch(run_process, args.num_gpus, **places, args=(args,))
