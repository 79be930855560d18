"""Processes that a run starts."""

import multiprocessing
import os
import subprocess
import sys

import pytest

from ..programs import python_path

SHOW = """
import multiprocessing
import sys
import torch
import usg_psg
from usg_psg.engine import launch

def show(folder):
    rank = torch.distributed.get_rank()
    open(f"{folder}/{rank}", "w").write(f"{torch.get_num_threads()} {multiprocessing.get_start_method()}")

if __name__ == "__main__":
    launch(show, 2, args=(sys.argv[1],))
"""


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
@pytest.mark.parametrize("asked", [None, "2"])
def test_processes_share_the_cores_unless_told_otherwise_and_start_loaders_as_one_process_does(tmp_path, asked):
    program = tmp_path / "show.py"
    program.write_text(SHOW)
    # A benchmark program that another test imported may have set some of them.
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | {"CUDA_VISIBLE_DEVICES": ""}
    env["PYTHONPATH"] = python_path()
    count = "import torch; print(torch.get_num_threads())"
    alone = int(subprocess.run([sys.executable, "-c", count], env=env, capture_output=True, check=True).stdout)
    if asked:
        env["OMP_NUM_THREADS"] = asked
    subprocess.run([sys.executable, str(program), str(tmp_path)], env=env, check=True)
    expected = f"{asked or max(1, alone // 2)} {multiprocessing.get_start_method()}"
    assert [(tmp_path / rank).read_text() for rank in "01"] == [expected] * 2
