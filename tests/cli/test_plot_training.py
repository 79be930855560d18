"""tools/plot_training.py: what is read from the logs, what is drawn, what is said about damaged ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usg_psg.cli import plot as tool
from usg_psg_cli import program

from ..programs import exit_status

main = program("plot")
TERMS = {"loss_class": 4.0, "loss_mask": 3.0, "loss_dice": 3.0, "loss_pair": 20.0, "loss_predicate": 5.0}


def make_run(folder: Path, steps: int = 30, decay: float = 0.9) -> Path:
    folder.mkdir(parents=True)
    rows = [{"iteration": i, **{k: v * decay**i for k, v in TERMS.items()}, "loss_class_0": 99.0} for i in range(steps)]
    (folder / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = [{"iteration": 0, tool.SANITY: 10.0}, {"iteration": 20, tool.SANITY: 60.0, "lr": 0.1}]
    metrics += [{"iteration": 29, "sgdet/single/R@50": 40.0, "panoptic/PQ": 55.0}]
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    return folder


def append(path: Path, record: object) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def test_losses_are_sums_of_the_last_layer_s_terms(tmp_path):
    run = tool.read_run(f"mine={make_run(tmp_path / 'run')}")
    assert run.name == "mine" and tool.read_run(str(tmp_path / "run")).name == "run"
    steps, objects = run.losses["objects"]
    assert steps.tolist() == list(range(30)) and objects[0] == 10.0
    np.testing.assert_allclose(run.losses["relations"][1], 25.0 * 0.9 ** np.arange(30))
    assert [x.tolist() for x in run.scalars[tool.SANITY]] == [[0, 20], [10.0, 60.0]]


def test_a_folder_may_have_an_equals_sign(tmp_path):
    folder = make_run(tmp_path / "lr=0.1")
    assert tool.read_run(str(folder)).name == "lr=0.1"
    with pytest.raises(ValueError, match="there is no 0.1/losses.jsonl"):
        tool.read_run(f"{tmp_path}/wd=0.1")


@pytest.mark.parametrize("name", ["curves", "curves.xyz", "lr=0.1"])
def test_a_picture_needs_an_ending(tmp_path, capsys, name):
    assert exit_status(main, [str(make_run(tmp_path / "run")), "--output", str(tmp_path / name)]) == 2
    assert "--output: expected a file name with an ending of" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_running_mean_uses_the_past_alone():
    np.testing.assert_allclose(tool.running_mean(np.array([1.0, 3.0, 5.0, 9.0]), 2), [1.0, 2.0, 4.0, 7.0])


def test_a_line_for_each_loss_and_a_point_for_each_evaluation(tmp_path):
    runs = [tool.read_run(str(make_run(tmp_path / name))) for name in ("a", "b")]
    figure = tool.draw(runs, list(tool.METRICS), 5)
    assert len({axis.get_xlim() for axis in figure.axes}) == 1, "one evaluation at the end stands at the end"
    losses, proposals, evaluations = figure.axes
    assert [t.get_text() for t in losses.get_legend().get_texts()] == [
        f"{run}, {kind}" for run in "ab" for kind in ("objects", "relations")
    ]
    assert len(proposals.lines) == 2
    assert [line.get_ydata().tolist() for line in evaluations.lines] == [[40.0], [55.0]] * 2
    smooth = losses.lines[1].get_ydata()
    assert smooth[-1] < 0.1 and smooth[0] > 1, "as parts of the first steps' mean"


def test_the_program_writes_a_picture(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    with open(run / "losses.jsonl", "a") as file:
        file.write('{"iteration": 30, "loss_cl')  # a run that is going on
    picture = tmp_path / "new" / "curves.png"
    assert main([str(run), "--output", str(picture)]) == 0
    assert Image.open(picture).size[0] > 1000 and str(picture) in capsys.readouterr().out


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda run: (run / "losses.jsonl").unlink(), "there is no"),
        (lambda run: (run / "metrics.json").write_text(""), "no complete line"),
        (lambda run: (run / "metrics.json").write_text('{"a\n{"iteration": 1}\n'), "line 1: not JSON"),
        (lambda run: (run / "losses.jsonl").write_text('{"iteration": 0, "loss_class": 1}\n'), "has no loss_mask"),
        (lambda run: append(run / "losses.jsonl", {"iteration": 30}), "has no loss_class"),
        (lambda run: append(run / "losses.jsonl", [1]), "line 31: expected an object with an iteration, got [1]"),
        (lambda run: append(run / "losses.jsonl", "text"), "line 31: expected an object with an iteration"),
        (
            lambda run: append(run / "losses.jsonl", {"iteration": 10**30}),
            "line 31: expected an object with an iteration",
        ),
        (lambda run: (run / "losses.jsonl").write_bytes(b"\xff\xfe\n{}\n"), "line 1: not JSON"),
        (lambda run: (run / "metrics.json").write_text("[" * 100000 + "\n{}\n"), "line 1: not JSON"),
        (lambda run: append(run / "losses.jsonl", TERMS), "line 31: expected an object with an iteration"),
        (lambda run: append(run / "metrics.json", {"a": 1}), "line 4: expected an object with an iteration"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, capsys, break_it, message):
    run = make_run(tmp_path / "run")
    break_it(run)
    assert main([str(run), "--output", str(tmp_path / "x.png")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "x.png").exists()


def test_a_metric_that_nobody_logged_is_refused_with_those_there_are(tmp_path, capsys):
    arguments = [str(make_run(tmp_path / "run")), "--output", str(tmp_path / "x.png"), "--metrics", "sgdet/R@50"]
    assert main(arguments) == 2
    assert "sgdet/single/R@50" in capsys.readouterr().err
