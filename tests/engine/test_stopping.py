"""A run that is asked to stop, or whose loader dies: its state is saved, and it goes on from there."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import Trainer, adapt_to_machine, hooks
from usg_psg.engine.hooks import StopHook
from usg_psg.engine.launch import stop_signals

SMALL = ["SOLVER.MAX_ITER", "6", "SOLVER.IMS_PER_BATCH", "2", "MODEL.USG.LOSS.NUM_POINTS", "64", "SEED", "3"]
SMALL += ["INPUT.USG.IMAGE_SIZE", "64", "INPUT.MIN_SIZE_TRAIN", "(64,)", "DATALOADER.NUM_WORKERS", "0"]
SMALL += [
    "MODEL.USG.HIDDEN_DIM",
    "32",
    "MODEL.USG.MASK_DECODER.NUM_LAYERS",
    "1",
    "MODEL.USG.RELATION_HEAD.NUM_LAYERS",
    "1",
]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    generate_psg_shapes(root / "psg_shapes", num_train=4, num_val=1, size=(64, 64), preset="easy", seed=0)
    return root


@pytest.fixture
def cfg(datasets, tmp_path, monkeypatch) -> CfgNode:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets))
    cfg = build_cfg("quickstart/usg_par_quickstart.yaml", [*SMALL, "OUTPUT_DIR", str(tmp_path / "run")])
    cfg.DATASETS.TEST = ()
    adapt_to_machine(cfg)
    return cfg


class After(HookBase):
    """Calls something after one step."""

    def __init__(self, iteration: int, call):
        self.iteration, self.call = iteration, call

    def after_step(self):
        if self.trainer.iter == self.iteration:
            self.call()


def train(cfg: CfgNode, *hooks: HookBase, resume: bool = False, kind: type[Trainer] = Trainer) -> Trainer:
    torch.manual_seed(0)
    trainer = kind(cfg)
    trainer.register_hooks(list(hooks))
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def losses(cfg: CfgNode) -> list[dict]:
    return [json.loads(line) for line in (Path(cfg.OUTPUT_DIR) / "losses.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])  # test_resume.py sends SIGTERM and SIGUSR1
def test_a_signal_ends_the_run_with_its_state_saved(cfg, number, caplog):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        train(cfg, After(1, lambda: signal.raise_signal(number)))
    assert stopped.value.code == 128 + number
    assert (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_0000002.pth"
    assert f"stopped by {signal.Signals(number).name} after step 3 of 6; the state is saved" in caplog.text
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_the_run_at_once(cfg, monkeypatch):
    monkeypatch.setattr(hooks, "SECOND_CTRL_C", -1.0)

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(cfg, After(1, twice))
    assert not (Path(cfg.OUTPUT_DIR) / "last_checkpoint").exists()


def test_one_ctrl_c_that_arrives_twice_is_one(cfg):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit):
        train(cfg, After(1, twice))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_is_ignored_stays_so(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_signals(StopHook(None).on_signal):
            assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


class StoppedInEvaluation(Trainer):
    """Gets a signal when it evaluates."""

    @classmethod
    def test(cls, *_):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the evaluation goes on")


@pytest.mark.slow
@pytest.mark.parametrize("period, checkpoint", [(2, "model_0000001.pth"), (0, "model_final.pth")])
def test_an_evaluation_is_broken_off(cfg, caplog, period, checkpoint):
    cfg.SOLVER.EMA.ENABLED, cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD = True, 4, period
    with pytest.raises(SystemExit) as stopped:
        train(cfg, kind=StoppedInEvaluation)
    assert stopped.value.code == 128 + signal.SIGTERM and "in the evaluation" in caplog.text
    assert (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == checkpoint
    data = torch.load(Path(cfg.OUTPUT_DIR) / checkpoint, weights_only=True)
    assert any(not torch.equal(average, data["model"][name]) for name, average in data["ema"].items())
    cfg.SOLVER.MAX_ITER = 5
    assert train(cfg, resume=True).iter == 5


def kill_loader():
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_the_state_is_saved_when_a_loader_process_is_killed(cfg, caplog):
    train(cfg)
    undisturbed = losses(cfg)
    cfg.OUTPUT_DIR += "_killed"
    cfg.DATALOADER.NUM_WORKERS = 1
    with pytest.raises(
        ChildProcessError, match=r"killed \(signal 9, SIGKILL\), as happens when memory runs out: try fewer"
    ):
        train(cfg, After(1, kill_loader))
    assert "the state is saved, and --resume goes on from here" in caplog.text
    done = len(losses(cfg))
    assert 2 < done < 6 and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == f"model_{done - 1:07d}.pth"
    train(cfg, resume=True)
    assert losses(cfg) == undisturbed


def test_an_evaluation_whose_loader_is_killed_is_named(cfg):
    cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = ("psg_shapes_train",), 1
    batches = iter(Trainer.build_test_loader(cfg, "psg_shapes_train"))
    next(batches)
    kill_loader()
    with pytest.raises(ChildProcessError, match="a loader process was killed"):
        list(batches)
        raise ChildProcessError("a loader process was killed after it had given all")


def test_a_faulty_test_set_is_found_before_the_first_step(cfg, tmp_path, monkeypatch):
    root = tmp_path / "datasets" / "psg_shapes"
    generate_psg_shapes(root, num_train=4, num_val=2, size=(64, 64), preset="easy", seed=0)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root.parent))
    cfg.DATASETS.TEST = ("psg_shapes_val",)
    record = json.loads((root / "psg" / "psg.json").read_text())["data"][-1]
    path = root / "coco" / record["pan_seg_file_name"]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=f"{path.name} .image_id '{record['image_id']}'.: not a readable image"):
        train(cfg)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path.name} .*there is no such file"):
        train(cfg)
    assert not (Path(cfg.OUTPUT_DIR) / "losses.jsonl").exists()
