"""The quickstart's chain of commands, which are replaced by what they would leave behind."""

import json
from types import SimpleNamespace

import pytest

from usg_psg.cli import quickstart
from usg_psg_cli import parse


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """The commands that a run calls, in order."""
    called = []

    def main(words):
        called.append(words)
        folder = tmp_path / "out"
        if words[0] == "shapes":
            json_file = folder / "datasets" / "psg_shapes" / "psg" / "psg.json"
            json_file.parent.mkdir(parents=True, exist_ok=True)
            data = [
                {"file_name": f"{i}.jpg", "image_id": str(i), "segments_info": classes, "relations": [[0, 1, 0]]}
                for i in range(7)
                for classes in [[{"category_id": c} for c in range(i)]]
            ]
            json_file.write_text(json.dumps({"data": data, "test_image_ids": ["2", "3", "4", "5", "6"]}))
        if words[0] == "train":
            results = {"metrics": {f"single/{name}": 80.0 for name in quickstart.SHOWN}}
            (folder / "inference").mkdir(parents=True)
            (folder / "inference" / "sgdet_psg_shapes_val.json").write_text(json.dumps(results))
        return 0

    monkeypatch.setattr(quickstart, "main", main)
    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    return called


def start(tmp_path, *words):
    return quickstart.run(parse("quickstart", ["--output", str(tmp_path / "out"), *words]))


def test_draws_scenes_trains_and_parses_the_four_richest_held_out_ones(tmp_path, commands, capsys):
    assert start(tmp_path, "--iterations", "7", "--num-val", "5") == 0
    shapes, train, demo = commands
    assert [words[0] for words in commands] == ["shapes", "train", "demo"]
    assert shapes[shapes.index("--num-val") + 1] == "5"
    assert "--overwrite" in train and train[-2:] == ["SOLVER.MAX_ITER", "7"] and "--minutes" not in train
    assert [word.rpartition("/")[2] for word in demo if word.endswith(".jpg")] == ["6.jpg", "5.jpg", "4.jpg", "3.jpg"]
    end = capsys.readouterr().out
    assert "protocol single" in end and "R@50 80.0" in end and "--input my_image.jpg" in end


def test_training_gets_the_time_that_is_left(tmp_path, commands, monkeypatch):
    clock = iter([1000.0, *[1060.0] * 9])  # imports take half a minute, scenes a minute
    monkeypatch.setattr(quickstart, "time", SimpleNamespace(monotonic=lambda: next(clock), process_time=lambda: 30.0))
    start(tmp_path, "--resume", "--minutes", "4")
    train = commands[1]
    assert float(train[train.index("--minutes") + 1]) == pytest.approx(4 - 1.5 - 0.8 * 1.5, abs=0.01)
    assert "--resume" in train and "--overwrite" not in train and "SOLVER.MAX_ITER" not in train


def test_a_failing_step_ends_the_chain(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(quickstart, "main", lambda words: 2)
    assert start(tmp_path, "--iterations", "7") == 2


def test_an_interrupted_step_names_the_command_that_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "main", lambda words: 130)
    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    assert start(tmp_path) == 130
    assert "make quickstart QUICKSTART_ARGS=--resume" in capsys.readouterr().out
