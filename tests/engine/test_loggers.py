"""Experiment trackers beside TensorBoard: config and scalars of a run, gone on with by a resumed training."""

import json
import os
import sqlite3
import sys
from pathlib import Path

import pytest
from detectron2.utils.events import EventStorage

from usg_psg.config import build_cfg
from usg_psg.config.checks import value_problems
from usg_psg.engine.loggers import LOGGERS, RUNS


@pytest.fixture
def cfg(tmp_path):
    cfg = build_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "my_run")
    os.makedirs(cfg.OUTPUT_DIR)
    return cfg


def train_part(name, cfg, first, last):
    """Steps of a training in which an evaluation has a result, as the trainer's hooks would log them."""
    logger = LOGGERS[name](cfg)
    with EventStorage(first) as storage:
        for storage.iter in range(first, last):
            storage.put_scalar("total_loss", 1 / (1 + storage.iter))
            if storage.iter % 2:
                storage.put_scalar("sgdet/single/R@50", 10.0 * storage.iter, smoothing_hint=False)
                logger.write()
        logger.write()  # nothing is new
        logger.close()
    return json.loads(Path(cfg.OUTPUT_DIR, RUNS).read_text())[name]


@pytest.mark.slow
def test_mlflow(cfg, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    run = train_part("mlflow", cfg, 0, 4)
    assert train_part("mlflow", cfg, 4, 6) == run
    client = mlflow.MlflowClient()
    found = client.get_run(run)
    assert found.info.run_name == "my_run" and found.info.status == "FINISHED"
    assert found.data.params["MODEL.META_ARCHITECTURE"] == cfg.MODEL.META_ARCHITECTURE
    history = client.get_metric_history(run, "sgdet/single/R_at_50")
    assert [(m.step, m.value) for m in history] == [(1, 10.0), (3, 30.0), (5, 50.0)]


def test_trackio(cfg, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    run = train_part("trackio", cfg, 0, 4)
    assert train_part("trackio", cfg, 4, 6) == run
    (database,) = (tmp_path / "trackio").rglob("usg_psg*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
        configs = connection.execute("SELECT run_name, config FROM configs").fetchall()
    logged = {step: json.loads(metrics) for name, step, metrics in rows if name == run}
    assert {step: scalars["sgdet/single/R@50"] for step, scalars in logged.items()} == {1: 10.0, 3: 30.0, 5: 50.0}
    assert json.loads(dict(configs)[run])["MODEL.META_ARCHITECTURE"] == cfg.MODEL.META_ARCHITECTURE


@pytest.mark.slow
def test_wandb(cfg, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = train_part("wandb", cfg, 0, 4)
    assert train_part("wandb", cfg, 4, 6) == run
    folders = sorted(Path(cfg.OUTPUT_DIR, "wandb").glob(f"offline-run-*-{run}"))
    assert folders and wandb.run is None
    files = sorted(file for folder in folders for file in folder.glob("*.wandb"))
    content = b"".join(file.read_bytes() for file in files)
    assert all(word in content for word in (b"sgdet/single/R@50", b"MODEL.META_ARCHITECTURE", b"my_run", b"iteration"))


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_package(name, cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"^LOGGERS '{name}' needs {name}: pip install 'usg_psg\[{name}\]'$"):
        LOGGERS[name](cfg)


def test_unknown_and_repeated_loggers(cfg):
    for value in (["comet"], ["wandb", "wandb"]):
        cfg.LOGGERS = value
        assert any(problem.startswith("LOGGERS: expected a list of") for problem in value_problems(cfg))
