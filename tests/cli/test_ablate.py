"""tools/ablate.py as a user runs it: rows, several seeds, going on, a row that fails, wrong arguments."""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Barrier

import pytest

from usg_psg.config import build_cfg
from usg_psg.data.psg_shapes import generate_psg_shapes

from ..programs import load_tool, run, start

CONFIG = "configs/quickstart/usg_par_quickstart.yaml"
OPTS = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "MODEL.USG.LOSS.NUM_POINTS", "128"]
OPTS += ["DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    generate_psg_shapes(root / "psg_shapes", num_train=6, num_val=2, size=(64, 96), preset="easy", seed=0)
    return root


def ablate(datasets: Path, output: Path, *arguments: str, opts: list[str] = OPTS) -> subprocess.CompletedProcess:
    command = ["tools/ablate.py", "--config-file", CONFIG, "--output", output, *arguments, "--opts", *opts]
    return run(*command, env={"DETECTRON2_DATASETS": str(datasets)}, timeout=500)


@pytest.mark.slow
def test_two_rows_are_trained_kept_and_tabled(datasets, tmp_path):
    rows = ["--rows", "baseline", "no_matching", "--jobs", "2"]
    done = ablate(datasets, tmp_path, *rows)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| baseline", "| no_matching"]
    assert "| the recipe |" in lines[2] and "`MODEL.USG.MATCHER.NAME fixed`" in lines[3]
    assert all(line.endswith("| 1 |") and "–" not in line for line in lines[2:])
    commands = [shlex.split(line) for line in (tmp_path / "commands.sh").read_text().splitlines()]
    assert "MODEL.USG.MATCHER.NAME fixed" in " ".join(commands[1]) and "MATCHER" not in " ".join(commands[0])
    assert not list(tmp_path.rglob("*.pth"))
    config = (tmp_path / "no_matching" / "seed1" / "config.yaml").read_text()
    assert "NAME: fixed" in config and "SEED: 1" in config

    record = tmp_path / "baseline" / "seed1" / "row.json"
    written = record.stat().st_mtime_ns
    done = ablate(datasets, tmp_path, *rows, "--table", "--seeds", "1", "2")
    assert done.returncode == 1, "the second seed is not there yet"
    assert (tmp_path / "table.md").read_text().splitlines() == lines
    done = ablate(datasets, tmp_path, *rows)
    assert done.returncode == 0 and record.stat().st_mtime_ns == written, "a finished row is not run again"


@pytest.mark.slow
def test_a_row_that_fails_is_reported(datasets, tmp_path):
    done = ablate(
        datasets, tmp_path, "--rows", "rpc_deeper", opts=[*OPTS, "MODEL.USG.RELATION_HEAD.RPC.NUM_HEADS", "5"]
    )
    assert done.returncode == 1
    table = (tmp_path / "table.md").read_text()
    assert "1 failed: exit code 2" in table and "NUM_HEADS" in table
    assert "NUM_HEADS" in (tmp_path / "rpc_deeper" / "seed1" / "output.txt").read_text()


@pytest.mark.slow
def test_stopping_it_stops_its_runs(datasets, tmp_path):
    command = ["tools/ablate.py", "--config-file", CONFIG, "--output", tmp_path]
    command += ["--rows", "baseline", "--opts", *OPTS, "SOLVER.MAX_ITER", "100000"]
    log = tmp_path / "baseline" / "seed1" / "losses.jsonl"
    with start(*command, env={"DETECTRON2_DATASETS": str(datasets)}, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 300
        while not log.is_file() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        message = process.communicate(timeout=300)[1]
    assert "goes on from here" in message and "Traceback" not in message
    size = log.stat().st_size
    time.sleep(2)
    assert log.stat().st_size == size, "the run has ended, too"
    assert not (tmp_path / "baseline" / "seed1" / "row.json").exists(), "it will be run again"


def test_runs_take_the_gpus_in_turns(tmp_path, monkeypatch):
    tool, together = load_tool("ablate"), Barrier(3)

    class Process(subprocess.Popen):
        def __init__(self, command, env, **options):
            together.wait(60)  # three at a time, so each of them has a GPU to itself before one gets its second
            line = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
            super().__init__([sys.executable, "-c", line], env=env, **options)

    monkeypatch.setattr(tool.subprocess, "Popen", Process)
    monkeypatch.setattr(tool, "read_metrics", lambda folder: {"single/R@50": 0.0})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    jobs = [tool.Job("baseline", seed, (), tmp_path / str(seed), ("python",)) for seed in range(6)]
    tool.Runner(3, keep_weights=False).run(jobs, lambda: None)
    used = [(job.folder / "output.txt").read_text().strip() for job in jobs]
    assert sorted(used[:3]) == sorted(used[3:]) == ["3", "3", "GPU-5"]


def test_several_seeds_give_mean_and_deviation(tmp_path):
    tool = load_tool("ablate")
    jobs = []
    for seed, recall in ((1, 50.0), (2, 54.0)):
        job = tool.Job("baseline", seed, (), tmp_path / str(seed), ("python", str(seed)))
        job.folder.mkdir()
        metrics = {"single/R@50": recall, "PQ": None}
        job.record.write_text(json.dumps({"command": list(job.command), "metrics": metrics}))
        jobs.append(job)
    assert "| 52.0 ± 2.8 |" in tool.table(jobs) and tool.table(jobs).rstrip().endswith("| 2 |")
    jobs[1].record.write_text(json.dumps({"command": list(jobs[1].command), "error": "a | b"}))
    assert "1, 1 failed: a \\| b" in tool.table(jobs)
    jobs[0].record.write_text(json.dumps({"command": ["another"], "metrics": {"single/R@50": 1.0}}))
    assert jobs[0].finished() is None, "the result of another command does not count"
    jobs[1].record.write_text("[1]")
    assert tool.table(jobs).rstrip().endswith("| – | 0 |"), "nor does its error, nor what is no record"


@pytest.mark.parametrize("recipe", [CONFIG, "psg/usg_par_convnext_large.yaml"])
def test_every_row_but_the_first_changes_the_recipe(recipe):
    plain = build_cfg(recipe)
    changed = {name: build_cfg(recipe, change(plain)).dump() for name, change in load_tool("ablate").ROWS.items()}
    assert changed.pop("baseline") == plain.dump()
    assert (changed.pop("specification") == plain.dump()) == (recipe != CONFIG)
    assert plain.dump() not in changed.values()
    assert len(set(changed.values())) == len(changed)


@pytest.mark.parametrize("arguments", [["--rows", "no_such_row"], ["--jobs", "0"]])
def test_wrong_arguments(datasets, tmp_path, arguments):
    done = ablate(datasets, tmp_path, *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_rows_of_another_batch_see_as_many_samples():
    plain = build_cfg(CONFIG)
    rows = [row for name, row in load_tool("ablate").ROWS.items() if name.startswith("batch_") or name == "released"]
    solvers = [build_cfg(CONFIG, row(plain)).SOLVER for row in rows]
    samples = {solver.MAX_ITER * solver.IMS_PER_BATCH for solver in solvers}
    assert samples == {plain.SOLVER.MAX_ITER * plain.SOLVER.IMS_PER_BATCH}
    rates = sorted(solver.BASE_LR / plain.SOLVER.BASE_LR for solver in solvers[:6])
    assert rates == pytest.approx([0.5, 0.5**0.5, 2**0.5, 2, 2, 4], rel=1e-5), "linear and root"


def test_whole_recipes_bring_their_optimiser_unless_it_is_tuned():
    tool, plain, theirs = load_tool("ablate"), build_cfg(CONFIG), build_cfg("psg/usg_par_released.yaml").SOLVER
    released, tuned = (build_cfg(CONFIG, tool.ROWS[name](plain)) for name in ("released", "released_tuned"))
    for key in ("BASE_LR", "WEIGHT_DECAY_NORM", "IMS_PER_BATCH"):
        assert released.SOLVER[key] == theirs[key]
        assert tuned.SOLVER[key] == plain.SOLVER[key]
    assert released.MODEL.USG == tuned.MODEL.USG
    assert released.MODEL.USG.MASK_DECODER.NUM_LAYERS == plain.MODEL.USG.MASK_DECODER.NUM_LAYERS
