"""Checkpoints of the quickstart's model with random weights, as a run leaves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import USGCheckpointer
from usg_psg.engine.training_record import TrainingRecord


def save_checkpoint(folder: Path, opts: list[str], prepare: Callable[[nn.Module], object] = lambda model: None) -> Path:
    """FOLDER/run/model_final.pth of a model that prepare was called with; its data set is forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder / "data"))
        generate_psg_shapes(folder / "data" / "psg_shapes", num_train=1, num_val=1, size=(64, 96))
        cfg = build_cfg("quickstart/usg_par_quickstart.yaml", ["OUTPUT_DIR", str(folder / "run"), *opts])
        torch.manual_seed(3)
        model = build_model(cfg)
        prepare(model)
        trained_on = TrainingRecord.from_config(cfg)
        USGCheckpointer(model, str(folder / "run"), trained_on=trained_on, cfg=cfg).save("model_final")
    return folder / "run" / "model_final.pth"
