"""The quickstart's recipe gives the same losses on both engines, and twice on one."""

import json
from pathlib import Path

import pytest

from usg_psg.data.psg_shapes import generate_psg_shapes

from ..compat.engines import needs_real
from ..programs import run

STEPS = 20


def train(engine: str, datasets: Path, output: Path) -> list[dict]:
    """Losses of the first steps, in a process of its own."""
    command = ["tools/train_net.py", "--config-file", "configs/quickstart/usg_par_quickstart.yaml"]
    command += ["OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", str(STEPS), "DATALOADER.NUM_WORKERS", "1"]
    command += ["SOLVER.IMS_PER_BATCH", "2", "SEED", "11", "DATASETS.TEST", "()", "SOLVER.WARMUP_ITERS", "5"]
    done = run(*command, env={"DETECTRON2_DATASETS": str(datasets), "USG_PSG_ENGINE": engine}, fresh=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (output / "losses.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def bundled(tmp_path_factory) -> tuple[Path, list[dict]]:
    root = tmp_path_factory.mktemp("data")
    generate_psg_shapes(root / "psg_shapes", num_train=12, num_val=1, size=(96, 128), preset="easy", seed=0)
    losses = train("bundled", root, root / "bundled")
    assert len(losses) == STEPS and losses[-1]["total_loss"] < losses[0]["total_loss"]
    return root, losses


@pytest.mark.slow
def test_one_seed_gives_one_sequence_of_losses(bundled):
    root, losses = bundled
    assert train("bundled", root, root / "again") == losses


@pytest.mark.slow
@needs_real
def test_both_engines_give_the_same_losses(bundled):
    root, losses = bundled
    for ours, theirs in zip(losses, train("detectron2", root, root / "detectron2"), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)
