"""Disks that are full or cannot be written: a clear error, and the last checkpoint stays whole."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
from pathlib import Path

import pytest
import torch

from usg_psg.data.psg_shapes import generate_psg_shapes
from usg_psg.engine import USGCheckpointer
from usg_psg.utils.files import write_whole
from usg_psg.utils.program import error_line, one_line_errors

from ..programs import run
from ..tiny import tiny_model


def in_child(function) -> str:
    """Call a function in a forked process, whose limits and rights may be changed; gives its error in one line."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            function()
            text = "no error"
        except Exception as error:
            text = error_line(error)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_checkpoint_that_the_disk_has_no_room_for(tmp_path):
    """The kernel refuses to let the file grow, as it does on a full disk, in the middle of it."""
    checkpointer = USGCheckpointer(tiny_model(), str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    before = files(tmp_path)

    def save() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        checkpointer.save("model_0000003", iteration=3)

    assert in_child(save) == f"{tmp_path}/model_0000003.pth: cannot be written: File too large"
    assert files(tmp_path) == before
    USGCheckpointer(tiny_model(), str(tmp_path)).resume_or_load("", resume=True)


@pytest.mark.parametrize("write", [lambda file: file.write(bytes(10**6)), lambda file: torch.save(torch.ones(9), file)])
def test_a_full_device(tmp_path, monkeypatch, write):
    """/dev/full takes no byte."""
    real = open

    def full(path, mode):
        assert str(path).endswith(".tmp")
        real(path, mode).close()
        return real("/dev/full", mode)

    (tmp_path / "model.pth").write_bytes(b"old")
    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(OSError) as error:
        write_whole(tmp_path / "model.pth", write)
    monkeypatch.undo()
    assert error.value.errno == errno.ENOSPC
    assert error_line(error.value) == f"{tmp_path}/model.pth: cannot be written: No space left on device"
    assert files(tmp_path) == {"model.pth": b"old"}


def test_a_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    checkpointer = USGCheckpointer(tiny_model(), str(folder))
    checkpointer.save("model_0000001", iteration=1)
    before = files(folder)
    for path in [folder, *folder.iterdir()]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and str(parent).startswith("/tmp/pytest"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)

    def save() -> None:
        if os.geteuid() == 0:
            os.seteuid(65534)  # rights bind everyone but root
        checkpointer.save("model_0000003", iteration=3)

    try:
        assert in_child(save) == f"{folder}/model_0000003.pth: cannot be written: Permission denied"
        assert files(folder) == before
    finally:
        folder.chmod(0o755)


def test_the_first_error_that_names_a_file_is_told(capsys):
    """A full disk fails again while the logs are closed; that says less."""

    @one_line_errors
    def main() -> None:
        try:
            raise OSError(errno.ENOSPC, "cannot be written: No space left on device", "model.pth")
        finally:
            raise OSError(errno.ENOSPC, "No space left on device")

    assert main() == 2
    assert capsys.readouterr().err.endswith(": error: model.pth: cannot be written: No space left on device\n")


def test_training_on_a_disk_that_fills_up(tmp_path):
    """A limit on file sizes lets logs through, but no checkpoint; the run ends in one line, the old one is whole."""
    generate_psg_shapes(tmp_path / "psg_shapes", 4, 1, size=(64, 64), preset="easy", seed=0)
    output = tmp_path / "run"
    command = ["--config-file", "configs/quickstart/usg_par_quickstart.yaml"]
    command += ["--resume", "OUTPUT_DIR", str(output), "SOLVER.IMS_PER_BATCH", "2", "MODEL.USG.LOSS.NUM_POINTS", "64"]
    command += ["DATALOADER.NUM_WORKERS", "0", "DATASETS.TEST", "()", "SOLVER.CHECKPOINT_PERIOD", "2"]
    limited = "import resource as r, runpy, sys; r.setrlimit(r.RLIMIT_FSIZE, [int(sys.argv.pop(1))] * 2); "
    limited += "sys.path[0] = 'tools'; runpy.run_path('tools/train_net.py', run_name='__main__')"

    def train(steps: int, limit: int) -> subprocess.CompletedProcess:
        words = [limit, *command, "SOLVER.MAX_ITER", steps]
        return run("-c", limited, *words, env={"DETECTRON2_DATASETS": str(tmp_path)})

    whole = train(2, 10**9)
    assert whole.returncode == 0, whole.stderr
    before = (output / "model_final.pth").read_bytes()
    full = train(6, 10**6)
    assert full.returncode == 2 and "Traceback" not in full.stdout + full.stderr
    last = full.stderr.strip().splitlines()[-1]
    assert last == f"train_net.py: error: {output}/model_0000003.pth: cannot be written: File too large"
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    assert (output / "model_final.pth").read_bytes() == before
    assert not list(output.glob("*.tmp")) and not list(output.glob(".*.tmp"))
    lines = (output / "losses.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [0, 1, 2, 3]
