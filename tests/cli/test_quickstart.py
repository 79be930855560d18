"""The quickstart's chain of commands, which are replaced by what they would leave behind."""

import json

import pytest
import yaml

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


def steps_of(words):
    return int(words[words.index("SOLVER.MAX_ITER") + 1])


def test_draws_scenes_trains_and_parses_the_four_richest_held_out_ones(tmp_path, commands, capsys):
    assert start(tmp_path, "--iterations", "7", "--num-val", "5") == 0
    shapes, train, demo = commands
    assert [words[0] for words in commands] == ["shapes", "train", "demo"]
    assert shapes[shapes.index("--num-val") + 1] == "5"
    assert "--overwrite" in train and steps_of(train) == 7
    assert [word.rpartition("/")[2] for word in demo if word.endswith(".jpg")] == ["6.jpg", "5.jpg", "4.jpg", "3.jpg"]
    end = capsys.readouterr().out
    assert "protocol single" in end and "R@50 80.0" in end and "--input my_image.jpg" in end


def test_steps_follow_from_the_time_that_one_takes(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(quickstart, "_affordable_steps", lambda opts, end: 123)
    start(tmp_path)
    assert steps_of(commands[1]) == 123


@pytest.mark.parametrize(("budget", "steps"), [(1e9, 9), (0.0, 3)], ids=["enough time", "none"])
def test_steps_lie_between_the_least_and_the_recipes(monkeypatch, budget, steps):
    class Trainer:
        iter = 0

        def __init__(self, cfg):
            self._trainer = self

        def run_step(self):
            pass

        close = run_step

    monkeypatch.setattr(quickstart, "Trainer", Trainer)
    monkeypatch.setattr(quickstart, "LEAST_STEPS", 3)
    opts = ["SOLVER.MAX_ITER", "9", "MODEL.DEVICE", "cpu"]
    assert quickstart._affordable_steps(opts, quickstart.time.monotonic() + budget) == steps


def test_an_interrupted_training_goes_on_with_its_own_number_of_steps(tmp_path, commands):
    out = tmp_path / "out"
    out.mkdir()
    (out / "last_checkpoint").write_text("model_0000003.pth")
    (out / "config.yaml").write_text(yaml.dump({"SOLVER": {"MAX_ITER": 44}}))
    start(tmp_path, "--resume")
    assert "--resume" in commands[1] and "--overwrite" not in commands[1] and steps_of(commands[1]) == 44


def test_a_failing_step_ends_the_chain(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(quickstart, "main", lambda words: 2)
    assert start(tmp_path, "--iterations", "7") == 2


def test_an_interrupted_step_names_the_command_that_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "main", lambda words: 130)
    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    assert start(tmp_path) == 130
    assert "make quickstart QUICKSTART_ARGS=--resume" in capsys.readouterr().out
