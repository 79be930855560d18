"""What of a run's log reaches the terminal."""

import io
import itertools
import logging
from argparse import Namespace

import pytest
import torch
from detectron2.config import get_cfg

from usg_psg.engine import terminal
from usg_psg.engine.terminal import CountedBatches, Pace, TerminalHandler, setup_logging, setup_run
from usg_psg.utils.program import TERMINAL, TRACEBACK_VARIABLE


@pytest.fixture
def log():
    """A logger with nothing but a terminal, and what is written there."""
    logger, stream = logging.Logger("usg_psg"), io.StringIO()
    logger.addHandler(TerminalHandler(stream))
    return logger, stream


def test_only_warnings_and_what_asks_for_the_terminal_are_shown(log):
    logger, stream = log
    logger.info("the configuration: %s", "...")
    logger.info("step %d", 3, extra=TERMINAL)
    for number in (1, 1, 2):
        logger.warning("%d images were left out", number)
    assert stream.getvalue() == "step 3\nWARNING 1 images were left out\nWARNING 2 images were left out\n"


@pytest.mark.parametrize(
    "error, variable, shown", [(ValueError, "", False), (ValueError, "1", True), (KeyError, "", True)]
)
def test_tracebacks_of_expected_errors_are_for_the_file(log, monkeypatch, error, variable, shown):
    monkeypatch.setenv(TRACEBACK_VARIABLE, variable)
    logger, stream = log
    try:
        raise error("wrong")
    except error:
        logger.exception("exception during training")
    assert ("Traceback" in stream.getvalue()) == shown


def test_lines_of_progress_come_less_and_less_often(monkeypatch):
    times = iter(range(2000))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(times)))
    pace = Pace()
    shown = [second for second in range(1, 2000) if pace.is_due()]
    gaps = [b - a for a, b in itertools.pairwise(shown)]
    assert shown[0] == 1 and gaps == sorted(gaps) and (gaps[0], gaps[-1]) == (5, 60)


def test_an_evaluation_shows_how_far_it_is(log, monkeypatch):
    logger, stream = log
    monkeypatch.setattr(terminal, "progress_logger", logger)
    monkeypatch.setattr(Pace, "is_due", lambda self: True)
    batches = CountedBatches([["a"], ["b"], ["c"]], "psg_val")
    assert len(batches) == 3 and list(batches) == [["a"], ["b"], ["c"]]
    shown = stream.getvalue().splitlines()
    assert [line.partition("   ")[0] for line in shown] == [
        "evaluation on psg_val: 1 of 3 images",
        "evaluation on psg_val: 2 of 3 images",
    ]


def test_a_run_has_its_log_its_config_and_its_seed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "LOGGERS", ("test_terminal",))
    monkeypatch.setattr(terminal, "logger", logging.getLogger("test_terminal"))
    monkeypatch.setattr(terminal.progress_logger, "handlers", [])
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path / "run"), 3
    drawn = []
    for _ in range(2):
        setup_logging(cfg.OUTPUT_DIR)
        setup_run(cfg, Namespace(eval_only=True, opts=["SEED", "3"]))
        drawn.append(torch.rand(()).item())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "run" / "config.yaml"))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert again.SOLVER == cfg.SOLVER and drawn[0] == drawn[1] and capsys.readouterr().out == ""
    assert log.count("command line: Namespace(eval_only=True") == 2
