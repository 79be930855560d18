"""Runs that are interrupted go on as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine.hooks import truncate_log

from .. import programs

STEPS = 30


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    generate_psg_shapes(root / "psg_shapes", num_train=9, num_val=2, size=(64, 64), preset="easy", seed=0)
    return root


def start(datasets: Path, output: Path, *overrides: str, options: tuple[str, ...] = ()) -> subprocess.Popen:
    command = ["tools/train_net.py", "--config-file", "configs/quickstart/usg_par_quickstart.yaml"]
    command += ["--resume", *options]
    command += ["OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", str(STEPS), "SOLVER.CHECKPOINT_PERIOD", "4"]
    command += ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "5", "MODEL.USG.LOSS.NUM_POINTS", "128"]
    command += ["DATALOADER.NUM_WORKERS", "1", "TEST.EVAL_PERIOD", "0", "DATASETS.TEST", "()"]
    command += ["SOLVER.EMA.ENABLED", "True", "SEED", "7"]
    env = {"DETECTRON2_DATASETS": str(datasets)}
    return programs.start(*command, *overrides, env=env, stdout=subprocess.DEVNULL, start_new_session=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]


def losses(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "losses.jsonl").read_text().splitlines()]


def wait_for_step(output: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        log = output / "losses.jsonl"
        if log.is_file() and len(log.read_bytes().splitlines()) >= step:
            return
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(datasets, tmp_path_factory) -> list[dict]:
    output = tmp_path_factory.mktemp("undisturbed")
    finish(start(datasets, output))
    rows = losses(output)
    assert [row["iteration"] for row in rows] == list(range(STEPS))
    kept = {f.name for f in output.glob("*.pth")}
    assert kept == {"model_0000019.pth", "model_0000023.pth", "model_0000027.pth", "model_final.pth"}
    return rows


@pytest.mark.slow
def test_killed_at_random_moments_the_losses_are_those_of_an_undisturbed_run(datasets, undisturbed, tmp_path):
    moments = random.Random()
    plan = sorted(moments.sample(range(1, STEPS - 1), 4))
    for step in plan:
        process = start(datasets, tmp_path)
        wait_for_step(tmp_path, step, process)
        time.sleep(moments.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(datasets, tmp_path))
    assert losses(tmp_path) == undisturbed, f"killed after steps {plan}"
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert not list(tmp_path.glob(".*.tmp")) or all(f.stat().st_size for f in tmp_path.glob("model_*.pth"))
    iterations = [json.loads(line)["iteration"] for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert len(iterations) == len(set(iterations)), "one sequence, as of one run"  # Detectron2 writes 29 before 20


@pytest.mark.slow
def test_a_terminated_run_saves_its_state_and_goes_on(datasets, undisturbed, tmp_path):
    process = start(datasets, tmp_path)
    wait_for_step(tmp_path, 6, process)
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: the loader's processes get it, too
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, errors[-2000:]
    stopped = len(losses(tmp_path))
    assert (tmp_path / "last_checkpoint").read_text() == f"model_{stopped - 1:07d}.pth"
    finish(start(datasets, tmp_path, "DATALOADER.NUM_WORKERS", "0"))
    assert losses(tmp_path) == undisturbed


@pytest.mark.slow
def test_two_processes_end_together_when_the_one_that_started_them_is_asked_to(datasets, tmp_path):
    process = start(datasets, tmp_path, options=("--num-gpus", "2", "--dist-url", "auto"))
    wait_for_step(tmp_path, 6, process)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGUSR1, errors[-2000:]
    stopped = len(losses(tmp_path))
    assert 6 <= stopped < STEPS and (tmp_path / "last_checkpoint").read_text() == f"model_{stopped - 1:07d}.pth"


def test_the_log_is_cut_where_the_run_goes_on(tmp_path):
    log = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": i, "loss": i / 3}) + "\n" for i in range(5)]
    log.write_text("".join(lines) + '{"iteration": 5, "lo')
    truncate_log(log, 5)
    assert log.read_text() == "".join(lines)
    truncate_log(log, 3)
    assert log.read_text() == "".join(lines[:3])
    log.write_text(lines[4] + lines[1] + lines[3] + lines[2])
    truncate_log(log, 3)
    assert log.read_text() == lines[1] + lines[2]
    log.write_text("[1]\n" + lines[1] + '5\n{"iteration": "a"}\n' + "[" * 100000 + "\n")
    truncate_log(log, 3)
    assert log.read_text() == lines[1], "lines that are no records go"
    truncate_log(tmp_path / "missing.json", 3)
