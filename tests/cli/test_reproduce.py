"""From data and published weights to results and a model card, at toy size; and the plan of the real thing."""

import json
import shutil

import pytest

from usg_psg.cli import reproduce, steps
from usg_psg.pretrained import convert
from usg_psg_cli import main

from ..programs import exit_status
from ..toy_psg import SMALL, make_datasets, words, write_fcclip

RUN = ["SOLVER.MAX_ITER", "3", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "1"]


def words_of(root, output, *options: str) -> list[str]:
    return ["reproduce", "--datasets", str(root), "--output", str(output), "--num-gpus", "1", *options]


def test_the_plan_lists_what_is_missing_and_every_command(tmp_path, capsys):
    assert exit_status(main, [*words_of(tmp_path / "none", tmp_path / "out")[:5], "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for name in ("train2017", "val2017", "panoptic_train2017", "panoptic_val2017", "psg.json", "fcclip_cocopan.pth"):
        assert f"{name}\n    from http" in printed
    assert "annotations/panoptic_val2017.zip, which is in it, too" in printed
    commands = [line for line in printed.splitlines() if line.startswith(("usg-psg ", "python tools/"))]
    assert len(commands) == 5 + len(reproduce.EVALUATIONS)
    assert all("psg/usg_par_best.yaml" in line and "--num-gpus 8" in line for line in commands[3:-1])
    assert not (tmp_path / "out").exists()
    assert exit_status(main, words_of(tmp_path / "none", tmp_path / "out")) == 2
    assert "6 of 6 inputs are missing" in capsys.readouterr().err
    main([*words_of(tmp_path / "none", tmp_path / "out"), "--dry-run"])
    assert "--config-file psg/usg_par_best_1gpu.yaml" in capsys.readouterr().out


def test_results_of_another_plan_are_not_taken_over(tmp_path, capsys):
    planned = [reproduce.Step("check the data", "data check", ["--json", "a"], tmp_path / "check.json")]
    reproduce.Journal(tmp_path / "reproduce.json", planned).add(planned[0], 1.0)
    assert not reproduce.Journal(tmp_path / "reproduce.json", planned).has(planned[0]), "the file itself is not there"
    (tmp_path / "check.json").touch()
    assert reproduce.Journal(tmp_path / "reproduce.json", planned).has(planned[0])
    assert exit_status(main, [*words_of(tmp_path, tmp_path), "--dry-run"]) == 2
    assert "made by other commands (first: 'check the data'); choose another --output" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_chain(tmp_path, monkeypatch, capsys):
    """Interrupted in the middle, and carried on: no step is made twice."""
    make_datasets(tmp_path / "datasets", num_train=8, num_val=2)
    (tmp_path / "datasets" / "weights").mkdir()
    write_fcclip(tmp_path / "datasets" / "weights" / "fcclip_cocopan.pth")
    monkeypatch.setattr(convert, "FCCLIP_CLIP", SMALL["MODEL.CLIP.NAME"])
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    made = []

    def run_here(title, command, command_words, env):
        if "evaluate" in title and len(made) == 4:
            raise ChildProcessError("stopped: as if by a power failure")
        made.append(title)
        assert exit_status(main, [*command.split(), *command_words]) == 0, title
        return 1.0

    monkeypatch.setattr(steps, "run_step", run_here)
    command = [*words_of(tmp_path / "datasets", tmp_path / "out"), *words(SMALL), *RUN]
    assert exit_status(main, command) == 1
    made.append("the failure")
    assert exit_status(main, command) == 0
    assert len(made) == 6 + len(reproduce.EVALUATIONS) and len(set(made)) == len(made)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["recipe"] == "psg/usg_par_best_1gpu.yaml" and set(results["evaluations"]) == {*reproduce.EVALUATIONS}
    for name, each in results["evaluations"].items():
        assert each["task"] == reproduce.EVALUATIONS[name][1] and each["counts"]["images"] == 2
        assert {"single/R@50", "openpsg/mR@50", "usg_pooled/R@20"} <= set(each["metrics"])
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "| sgdet single " in card and "| predcls openpsg " in card and "MAX_ITER 3" in card
    assert (tmp_path / "out" / "sgdet" / "inference" / "predictions_psg_test").exists() or list(
        (tmp_path / "out" / "sgdet" / "inference").glob("predictions*")
    )
    shutil.rmtree(tmp_path / "out" / "predcls")
    capsys.readouterr()
    main([*command[:7], "--dry-run", *command[7:]])
    printed = capsys.readouterr().out
    assert printed.count("(done)") == 7 and "missing" not in printed
