"""One run at a time in a folder, and none among the results of another."""

import errno
import os
import signal
from pathlib import Path

import pytest

from usg_psg.engine import output_folder
from usg_psg.engine.output_folder import locked, start_new_training


def in_another_process(folder: Path) -> str:
    """What a process that asks for the folder is told; "" if it gets it."""
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        try:
            with locked(folder):
                message = ""
        except ValueError as error:
            message = str(error)
        os.write(writer, message.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with open(reader) as pipe:
        return pipe.read()


def test_a_second_run_is_told_who_holds_the_folder(tmp_path):
    with locked(tmp_path):
        message = in_another_process(tmp_path)
        assert f"OUTPUT_DIR {tmp_path}: another run is writing here (process {os.getpid()} on " in message
        assert in_another_process(tmp_path / "another") == ""
    assert in_another_process(tmp_path) == ""


def test_the_lock_of_a_killed_run_is_gone_though_its_children_live(tmp_path):
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        with locked(tmp_path):
            child = os.fork() or signal.pause()
            os.write(writer, str(child).encode())
            signal.pause()
    child = int(os.read(reader, 20))
    assert in_another_process(tmp_path)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    try:
        assert in_another_process(tmp_path) == ""
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(output_folder.fcntl, "lockf", no_locks)
    with locked(tmp_path):
        pass
    assert f"{tmp_path} cannot be locked (No locks available)" in capsys.readouterr().err


def test_temporary_files_of_killed_writers_are_removed(tmp_path):
    (tmp_path / "inference").mkdir()
    left = [tmp_path / ".model_0000003.pth.17.18.tmp", tmp_path / "inference" / ".sgdet_x.json.17.18.tmp"]
    kept = [tmp_path / "model_0000003.pth", tmp_path / ".notes.tmp", tmp_path / "a.17.18.tmp"]
    for path in left + kept:
        path.touch()
    with locked(tmp_path):
        assert not any(path.exists() for path in left) and all(path.exists() for path in kept)


def test_a_new_training_does_not_mix_with_an_old_one(tmp_path):
    start_new_training(tmp_path)
    old = ["losses.jsonl", "last_checkpoint", "model_0000003.pth", "model_best.pth", "model_best.json", "log.txt"]
    others = ["pretrained.pth", "model_of_mine.pth", "notes.txt"]
    for name in old + others:
        (tmp_path / name).write_text("something")
    (tmp_path / "metrics.json").touch()
    with pytest.raises(ValueError, match=r"\(last_checkpoint, losses.jsonl\): --resume goes on .* --overwrite removes"):
        start_new_training(tmp_path)
    with pytest.raises(ValueError, match="--overwrite would remove MODEL.WEIGHTS .*model_best.pth: choose another"):
        start_new_training(tmp_path, str(tmp_path / "model_best.pth"), overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {*old, *others, "metrics.json"}
    start_new_training(tmp_path, str(tmp_path / "pretrained.pth"), overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_a_run_that_ended_before_its_first_step_is_no_hindrance(tmp_path):
    for name in ("config.yaml", "log.txt", "metrics.json"):
        (tmp_path / name).touch()
    start_new_training(tmp_path)
